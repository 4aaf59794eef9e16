"""Parts with their own memory maps, under QEMU, by gcc: what links fits, and what runs is Python's.

QEMU shows bits and instructions; it does not show time or energy.
"""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from bench.mcu import compilers
from bench.mcu.compilers import FIRMWARE, FLAGS, WARNINGS, compiled, cross, run
from bench.mcu.elf import Elf
from ezo.export import templates
from ezo.export.arena import STACK_BYTES


@dataclass(frozen=True)
class Board:
    """Attributes:
    part: whose memory map this is.
    processor: a name of `PROCESSORS`.
    flash, ram: (address, bytes).
    machine: QEMU's program and machine. A machine with more memory than the part has the
        part's addresses; the linker keeps to the part's sizes.
    stack: bytes that the linker keeps for it.
    """

    part: str
    processor: str
    flash: tuple[int, int]
    ram: tuple[int, int]
    machine: tuple[str, ...]
    stack: int = STACK_BYTES


_ARM = ("qemu-system-arm", "-semihosting-config", "enable=on,target=native", "-machine")
KIB = 1024
BOARDS = {
    "nrf52840dk": Board(
        "nRF52840", "cortex-m4", (0, 1024 * KIB), (0x20000000, 256 * KIB), (*_ARM, "mps2-an386")
    ),
    "netduinoplus2": Board(
        "STM32F405",
        "cortex-m4",
        (0x08000000, 1024 * KIB),
        (0x20000000, 128 * KIB),
        (*_ARM, "netduinoplus2"),
    ),
    "microbit": Board(
        "nRF51822", "cortex-m0+", (0, 256 * KIB), (0x20000000, 16 * KIB), (*_ARM, "microbit")
    ),
    "virt-rv32": Board(
        "rv32imc",
        "rv32imc",
        (0x80000000, 1024 * KIB),
        (0x80400000, 256 * KIB),
        ("qemu-system-riscv32", "-bios", "none", "-machine", "virt"),
    ),
}


@dataclass(frozen=True)
class Result:
    """Attributes:
    digests: after every so many steps.
    stack_bytes: the most that was used.
    ram_bytes: .data and .bss (the arena is in it), and the stack used.
    flash_bytes: everything that is not RAM, the examples too.
    """

    digests: list[int]
    stack_bytes: int
    ram_bytes: int
    flash_bytes: int


def build(folder: Path, name: str, x: Tensor, y: Tensor, steps: int, every: int) -> Path:
    """Link an exported network, and a pool of examples, for a board.

    Raises:
        RuntimeError: it does not fit the part.
    """
    pool = folder / "src" / "pool.h"
    rows = templates.numbers(x.flatten().tolist())
    labels = templates.numbers(y.tolist())
    pool.write_text(
        f"enum {{ POOL = {len(y)}, STEPS = {steps}, EVERY = {every} }};\n"
        f"static const int8_t pool_x[] = {{\n{rows}\n}};\n"
        f"static const uint8_t pool_y[] = {{\n{labels}\n}};\n"
    )
    out = folder / f"{name}.elf"
    link(name, compilers.sources(folder, FIRMWARE / "board.c"), folder / "src", out)
    return out


def link(
    name: str,
    sources: list[Path],
    include: Path,
    out: Path,
    warnings: tuple[str, ...] = WARNINGS,
) -> None:
    """C with a ``main``, linked for a board, with what starts and ends it (``start.c``).

    Raises:
        RuntimeError: it does not compile, or does not fit the part.
    """
    board = BOARDS[name]
    command = [*cross("gcc", board.processor), *FLAGS, *warnings, "-O2"]
    sources = [*sources, FIRMWARE / "start.c", FIRMWARE / "stub.c"]
    parts = [compiled(file, include, command) for file in sources]
    sizes = {
        "FLASH_AT": board.flash[0],
        "FLASH_BYTES": board.flash[1],
        "RAM_AT": board.ram[0],
        "RAM_BYTES": board.ram[1],
        "STACK_BYTES": board.stack,
    }
    linking = [f"-Wl,--defsym={key}={value}" for key, value in sizes.items()]
    script = ["-nostdlib", "-Wl,--gc-sections", *linking, "-T", str(FIRMWARE / "board.ld")]
    run([*command, *script, *parts, "-lgcc", "-o", out])


def go(program: Path, name: str, seconds: float) -> Result:
    """Run a linked program to its end.

    Raises:
        FileNotFoundError: there is no QEMU.
        RuntimeError: the self-test failed, or the program faulted.
    """
    done = started(program, name, seconds)
    text = done.stdout + done.stderr
    if done.returncode:
        raise RuntimeError(f"{name}: the program ended with {done.returncode}: {text}")
    stack = int(re.findall(r"stack ([0-9a-f]{8})", text)[0], 16)
    elf = Elf(program)
    kept = elf.ram() - BOARDS[name].stack
    return Result(
        [int(word, 16) for word in re.findall(r"digest ([0-9a-f]{8})", text)],
        stack,
        kept + stack,
        elf.flash(),
    )


def started(program: Path, name: str, seconds: float) -> "subprocess.CompletedProcess[str]":
    """QEMU's run of a linked program, to its end: its output, and what ``main`` returned.

    Raises:
        FileNotFoundError: there is no QEMU.
        subprocess.TimeoutExpired: it did not end.
    """
    board = BOARDS[name]
    if shutil.which(board.machine[0]) is None:
        package = "qemu-system-arm" if "arm" in board.machine[0] else "qemu-system-misc"
        raise FileNotFoundError(f"expected {board.machine[0]}; apt-get install {package}")
    command = [*board.machine, "-display", "none", "-monitor", "none", "-serial", "stdio"]
    return subprocess.run(
        [*command, "-kernel", str(program)],
        capture_output=True,
        text=True,
        timeout=seconds,
        stdin=subprocess.DEVNULL,
    )
