"""The kernels' bits on arm64, which QEMU plays, beside those of this processor.

``python tests/arm64/compare.py`` compiles the kernels, which are plain C++ but for module.cpp, for
both, runs `bits.cpp` with each, and compares every line. It needs g++, aarch64-linux-gnu-g++ and
qemu-aarch64; ``tox -e arm64`` installs what is missing. It shows bits, and not how fast arm64 is.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "ezo" / "csrc"
LISTS = (HERE.parents[1] / "CMakeLists.txt").read_text(encoding="utf-8")
FLAGS = ("-std=c++17", "-O3", "-pthread", "-static", f"-I{SOURCES}")
OF_A_SET = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")  # as CMakeLists.txt says


def files(start: str) -> list[Path]:
    """Those that CMakeLists.txt names after a word."""
    names = re.search(re.escape(start) + r" OBJECT\s+([^)]*)\)", LISTS)
    if names is None:
        raise SystemExit(f"expected add_library({start} OBJECT ...) in CMakeLists.txt, got none")
    return [HERE.parents[1] / name for name in names[1].split()]


def built(compiler: str, folder: Path, flags: Sequence[str] = ()) -> Path:
    """The program by a compiler, with the portable kernels alone."""
    objects = []
    for source in [*files("ezo_core"), *files("kernels_${name}"), HERE / "bits.cpp"]:
        own = (*OF_A_SET, "-DEZO_ISA=portable") if source in files("kernels_${name}") else ()
        objects.append(folder / f"{source.stem}.o")
        words = [compiler, *FLAGS, *own, *flags, "-c", str(source), "-o", str(objects[-1])]
        subprocess.run(words, check=True)
    program = folder / "bits"
    subprocess.run([compiler, *FLAGS, *map(str, objects), "-o", str(program)], check=True)
    return program


def lines(words: Sequence[str]) -> list[str]:
    run = subprocess.run(words, check=True, capture_output=True, text=True)
    return run.stdout.splitlines()


def main() -> int:
    """The command line; returns 1 where a line differs."""
    with tempfile.TemporaryDirectory() as name:
        here, there = Path(name, "here"), Path(name, "arm64")
        here.mkdir(), there.mkdir()
        ours = lines([str(built("g++", here))])
        theirs = lines(["qemu-aarch64", str(built("aarch64-linux-gnu-g++", there))])
    differing = [(a, b) for a, b in zip(ours, theirs, strict=True) if a != b]
    for a, b in differing:
        print(f"here  {a}\narm64 {b}")
    print(f"{len(ours) - 1} digests of the portable kernels, {len(differing)} differ on arm64")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
