"""The exported C as a shared library on this machine."""

import ctypes
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from bench.mcu.compilers import FIRMWARE, FLAGS, WARNINGS, compiled, run, zig
from ezo.export.arena import Arena
from ezo.export.kinds import RUNTIME


def host() -> list[str]:
    """This machine's C compiler, or PyPI's."""
    found = shutil.which("cc") or shutil.which("gcc")
    return [found] if found else zig()


def library(to: Path, flags: tuple[str, ...], sources: list[Path], include: Path) -> Any:
    """A shared library of C files."""
    command = [*host(), *FLAGS, *WARNINGS, "-O2", "-fPIC", *flags]
    parts = [compiled(source, include, command) for source in sources]
    run([*host(), "-shared", *parts, "-o", to])
    return ctypes.CDLL(str(to))


def runtime(to: Path, *flags: str) -> Any:
    """The runtime alone, every file of it."""
    return library(to, flags, sorted(RUNTIME.glob("*.c")), RUNTIME)


class Native:
    """An exported network on this machine, with the functions of ``firmware/drive.c``.

    Args:
        folder: what `ezo.export.write` wrote.
        planned: what it returned.
        flags: of the compiler.
    """

    def __init__(self, folder: Path, planned: Arena, *flags: str) -> None:
        sources = [*sorted((folder / "src").glob("*.c")), FIRMWARE / "drive.c"]
        self._c = library(folder / "native.so", flags, sources, folder / "src")
        self.planned = planned
        self._words = (ctypes.c_uint64 * (planned.total // 8))()
        self.losses: list[int] = []

    def _call(self, name: str, *arguments: Any) -> int:
        function = getattr(self._c, name)
        function.restype = ctypes.c_uint32
        found: int = function(ctypes.byref(self._words), *arguments)
        return found

    def train(
        self, x: Tensor, y: Tensor, steps: int, rate: int, mu: int, fresh: bool = True
    ) -> int:
        """Steps on a pool of examples, int8 (n, ...); returns the weights' digest."""
        numbers, labels = x.contiguous().numpy(), y.numpy().astype(np.uint8)
        losses = (ctypes.c_int64 * steps)()
        found = self._call(
            "drive",
            numbers.ctypes.data_as(ctypes.c_void_p),
            labels.ctypes.data_as(ctypes.c_void_p),
            *(ctypes.c_uint32(v) for v in (len(x), steps, rate)),
            ctypes.c_int32(mu),
            ctypes.c_uint32(fresh),
            losses,
        )
        self.losses = list(losses)
        return found

    def predict(self, x: Tensor, classes: int) -> tuple[int, list[int]]:
        """The class of one example, and the logits."""
        logits = (ctypes.c_int32 * classes)()
        numbers = x.contiguous().numpy()
        found = self._call("drive_predict", numbers.ctypes.data_as(ctypes.c_void_p), logits)
        return found, list(logits)

    def save(self) -> bytes:
        """The state."""
        room = ctypes.create_string_buffer(2 * self.planned.total + 20)
        n = self._call("drive_save", room)
        return room.raw[:n]

    def load(self, state: bytes) -> int:
        """Returns a status of ``ezo.h``."""
        return self._call("drive_load", ctypes.create_string_buffer(state, len(state)))

    def check(self) -> int:
        """The self-test."""
        return self._call("drive_check")

    def arena(self) -> bytes:
        return bytes(self._words)
