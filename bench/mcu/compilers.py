"""Compilers of the exported C: PyPI's clang (``ziglang``) and Debian's gcc.

A processor is a row of `PROCESSORS`; a compiler that is not there is an error that says what
installs it.
"""

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FIRMWARE = Path(__file__).with_name("firmware")
FLAGS = (
    "-std=c99",
    "-ffreestanding",
    "-fno-unwind-tables",
    "-fno-asynchronous-unwind-tables",
    "-fno-common",
    "-ffunction-sections",
    "-fdata-sections",
)
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas")


@dataclass(frozen=True)
class Processor:
    """Attributes:
    zig: target and CPU for clang. gcc: prefix of the cross compiler, and its flags.
    helpers: arithmetic of the compiler's own library that it has no instructions for.
    """

    zig: tuple[str, str]
    gcc: tuple[str, tuple[str, ...]]
    helpers: frozenset[str] = frozenset()


_ARM = "arm-none-eabi-"
_64_BITS = ("lmul", "llsl", "llsr", "lasr", "lcmp", "ulcmp", "uidiv", "uidivmod", "idiv")
_CALLS = frozenset(f"__aeabi_{name}" for name in _64_BITS)
_THUMB_1 = frozenset(f"__gnu_thumb1_case_{name}" for name in ("sqi", "uqi", "shi", "uhi", "si"))
_COPIES = frozenset(
    f"__aeabi_{name}{n}" for name in ("memcpy", "memset", "memclr") for n in ("", "4", "8")
)  # clang's names for memcpy and memset
PROCESSORS = {
    "cortex-m0+": Processor(
        ("thumb-freestanding-eabi", "cortex_m0plus"),
        (_ARM, ("-mcpu=cortex-m0plus", "-mthumb")),
        _CALLS | _THUMB_1 | _COPIES,
    ),
    "cortex-m3": Processor(
        ("thumb-freestanding-eabi", "cortex_m3"), (_ARM, ("-mcpu=cortex-m3", "-mthumb")), _COPIES
    ),
    "cortex-m4": Processor(
        ("thumb-freestanding-eabi", "cortex_m4"),
        (_ARM, ("-mcpu=cortex-m4", "-mthumb", "-mfloat-abi=soft")),
        _COPIES,
    ),
    "cortex-m33": Processor(
        ("thumb-freestanding-eabi", "cortex_m33"),
        (_ARM, ("-mcpu=cortex-m33", "-mthumb", "-mfloat-abi=soft")),
        _COPIES,
    ),
    "rv32imc": Processor(
        ("riscv32-freestanding-none", "baseline_rv32+m+c-a-f-d"),
        ("riscv64-unknown-elf-", ("-march=rv32imc", "-mabi=ilp32")),
        frozenset({"__lshrdi3", "__ashldi3", "__ashrdi3"}),
    ),
}


def sources(folder: Path, *more: Path) -> list[Path]:
    """An exported folder's C, and the driver of all measurements."""
    return [*sorted((folder / "src").glob("*.c")), FIRMWARE / "drive.c", *more]


def zig() -> list[str]:
    """PyPI's clang.

    Raises:
        ModuleNotFoundError: it is not installed.
    """
    if importlib.util.find_spec("ziglang") is None:
        raise ModuleNotFoundError(
            "expected PyPI's ziglang, which has a C compiler, got none; "
            "pip install -e '.[mcu]' -c constraints.txt"
        )
    return [sys.executable, "-m", "ziglang", "cc"]


def cross(compiler: str, processor: str) -> list[str]:
    """The command of ``zig`` or ``gcc`` for a processor, without files."""
    row = PROCESSORS[processor]
    if compiler == "zig":
        target, cpu = row.zig
        return [*zig(), "-target", target, f"-mcpu={cpu}", "-fno-sanitize=all"]
    command = shutil.which(row.gcc[0] + "gcc")
    if command is None:
        package = "gcc-arm-none-eabi" if row.gcc[0] == _ARM else "gcc-riscv64-unknown-elf"
        raise FileNotFoundError(f"expected {row.gcc[0]}gcc; apt-get install {package}")
    return [command, *row.gcc[1]]


def run(command: Sequence[str | Path]) -> None:
    """Raises:
    RuntimeError: the command failed; its output is in the message.
    """
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")


def compiled(source: Path, include: Path, command: Sequence[str]) -> Path:
    """An object file; one compiled before from the same text by the same command, if there is one.

    The runtime so is compiled once, not once an export.
    """
    of_a_model = source.name.startswith(("ezo_model", "ezo_check"))
    if of_a_model or not source.name.startswith("ezo"):
        headers = [*sorted(include.glob("*.h")), include / "ezo_model.c"]
    else:
        headers = [
            path
            for path in sorted(include.glob("*.h"))
            if path.name not in ("ezo_model.h", "pool.h")
        ]
    text = b"\0".join(path.read_bytes() for path in (source, *headers) if path.exists())
    key = hashlib.sha256(text + repr(list(command)).encode()).hexdigest()[:24]
    to = Path(_folder().name) / f"{source.stem}-{key}.o"
    if not to.exists():
        run([*command, f"-I{include}", "-c", source, "-o", to])
    return to


@functools.cache
def _folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="ezo-objects-")  # until this process ends


def objects(folder: Path, compiler: str, processor: str, optimise: str = "-O2") -> list[Path]:
    """The exported C compiled, a file each; warnings are errors."""
    command = [*cross(compiler, processor), *FLAGS, *WARNINGS, optimise]
    return [compiled(source, folder / "src", command) for source in sources(folder)]


def link(
    folder: Path,
    compiler: str,
    processor: str,
    optimise: str = "-O2",
    out: Path | None = None,
) -> Path:
    """A program for an emulator that calls functions by their addresses; by default in the folder.

    Raises:
        RuntimeError: it does not link, or needs what is not in `Processor.helpers`.
    """
    out = out or folder / f"{compiler}-{processor}.elf"
    script = FIRMWARE / "flat.ld"
    stub = compiled(FIRMWARE / "stub.c", folder / "src", [*cross(compiler, processor), *FLAGS])
    parts = [*objects(folder, compiler, processor, optimise), stub]
    bare = ["-nostartfiles"] if compiler == "zig" else ["-nostdlib"]
    flags = [*FLAGS, optimise, *bare, f"-Wl,-T,{script}", "-Wl,--no-gc-sections", "-Wl,-e,drive"]
    end = [] if compiler == "zig" else ["-lgcc"]
    run([*cross(compiler, processor), *flags, *parts, *end, "-o", out])
    return out
