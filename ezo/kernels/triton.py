"""Triton kernels for accelerators: the compiled path's bits, one launch for all tensors of a type.

In place and without scratch; a table of addresses stays on the device from step to step. Triton
comes with torch where torch has an accelerator. With ``TRITON_INTERPRET=1`` in the environment the
kernels run in its interpreter, on the CPU: slowly, for tests.
"""

import contextlib
import functools
import importlib
import importlib.util
import os
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ezo.kernels import Drawn, Number, Place, Sweeps, Weights
from ezo.noise import GROUP, NOISES, SHARED

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_installed = importlib.util.find_spec("triton") is not None
RANK = 20 if _installed and (torch.version.cuda or torch.version.hip) else None

TYPES = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}
TABLES = 64  # that are kept, of the sweeps of a step and of other models
_LOW = 0xFFFFFFFF


class Backend:
    """Sweeps over float and int8 weights.

    Raises:
        ValueError: Triton is not installed.
    """

    name = __name__.rpartition(".")[2]

    def __init__(self) -> None:
        if not _installed:
            raise ValueError("expected triton to be installed, got none; pip install triton")
        self._tables: dict[Any, Tensor] = {}
        self._captured: list[Tensor] = []  # tables that a graph reads

    def sweeps(
        self, numbered: list[tuple[int, Tensor]], noise: str, scratch_bytes: int
    ) -> tuple[list[Sweeps], list[tuple[int, Tensor]]]:
        parts: dict[Any, list[tuple[int, Tensor]]] = {}
        rest = []
        for t, p in numbered:
            if p.dtype in TYPES and self._takes(p):
                laid = not p.is_contiguous()
                parts.setdefault((p.device, p.dtype, laid), []).append((t, p))
            else:
                rest.append((t, p))
        return [_Sweeps(self, part, noise) for part in parts.values()], rest

    def perturbed(
        self,
        numbered: Sequence[tuple[int, Tensor]],
        results: Sequence[Tensor],
        noise: str,
        place: Place,
        by: tuple[Number, float],
    ) -> Any:
        tensors = [p for _, p in numbered]
        if not all(p.dtype in TYPES and p.is_contiguous() and self._takes(p) for p in tensors):
            return NotImplemented
        for one, result in zip(numbered, results, strict=True):
            _Sweeps(self, [one], noise, result).run("PERTURB", place, *by)

    def sparse_shift(self, weights: Weights, drawn: Drawn, times: int) -> Any:
        return self._sparse(weights, None, drawn, (times, 0, 0), False)

    def sparse_update(
        self, weights: Weights, fractions: Weights | None, drawn: Drawn, move: tuple[int, int, int]
    ) -> Any:
        g, rate, restore = move
        return self._sparse(weights, fractions, drawn, (restore, g, rate), True)

    def _sparse(
        self,
        weights: Weights,
        fractions: Weights | None,
        drawn: Drawn,
        move: tuple[int, int, int],
        moves: bool,
    ) -> Any:
        if not weights or not all(map(self._takes, weights)):
            return NotImplemented
        noise, place, first = drawn
        rows = _rows(4, 2 * GROUP, max(w.numel() for w in weights))
        numbered = list(enumerate(weights, first))
        table = self.table(numbered, fractions or weights, rows * 2, 0)
        how = (noise.threshold, noise.multiplier, noise.bound, *move)
        kinds = {"MOVES": moves, "FINE": fractions is not None, "ROWS": rows}
        _launch(weights[0].device, "sparse_sweep", table, _keys(place), place[2], *how, **kinds)

    def table(
        self,
        numbered: Sequence[tuple[int, Tensor]],
        results: Sequence[Tensor],
        groups: int,
        rank: int,
    ) -> tuple[Tensor, int, int]:
        """The kernels' table of some tensors, its rows, and the programs of a launch.

        Args:
            numbered: tensors of one type, each with its number in the noise stream.
            results: where each one's result goes.
            groups: that a program takes.
            rank: of shapes and strides, which are filled up; 0 where elements lie in order.
        """
        rows, programs = [], 0
        for (t, p), result in zip(numbered, results, strict=True):
            row = [programs, p.data_ptr(), result.data_ptr(), p.numel(), t]
            if rank:
                fill = rank - p.dim()
                row += [1] * fill + list(p.shape) + [0] * fill + list(p.stride())
            if p.numel():
                rows.append(tuple(row))
                programs += -(-p.numel() // (groups * GROUP))
        device = numbered[0][1].device
        key = (device, *rows)
        if key not in self._tables:
            if len(self._tables) >= TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = torch.tensor(rows, dtype=torch.int64, device=device)
        if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            self._captured.append(self._tables[key])
        return self._tables[key], len(rows), programs

    @staticmethod
    def _takes(x: Tensor) -> bool:
        return x.is_cpu if INTERPRETED else x.is_cuda and _works(x.device)


class _Sweeps:
    """Of tensors of one type on one device, all of whose elements lie in order or not; or of one
    whose result goes elsewhere: it needs no table, which would have to be brought to the device.
    """

    def __init__(
        self,
        backend: Backend,
        numbered: Sequence[tuple[int, Tensor]],
        noise: str,
        result: Tensor | None = None,
    ) -> None:
        self._backend, self._numbered, self._noise = backend, numbered, noise
        self._result = result

    def shift(self, place: Place, eps: Number, times: float) -> None:
        self.run("SHIFT", place, eps, times)

    def update(self, place: Place, eps: Number, rate: Number, decay: Number, restore: bool) -> None:
        self.run("RESTORE" if restore else "UPDATE", place, eps, 1.0, rate, decay)

    def learn(self, place: Place, rate: Number, decay: Number) -> None:
        self.run("LEARN", place, 1.0, 1.0, rate, decay)

    def fill(self, place: Place) -> None:
        self.run("FILL", place)

    def run(
        self,
        operation: str,
        place: Place,
        eps: Number = 1.0,
        times: float = 1.0,
        rate: Number = 0.0,
        decay: Number = 0.0,
    ) -> None:
        """One launch; addresses are looked at again each time."""
        kernels = _kernels()
        tensors = [p for _, p in self._numbered]
        rank = 0 if tensors[0].is_contiguous() else max(p.dim() for p in tensors)
        shared = SHARED.get(self._noise, 1)
        unit = max(shared, 2) if operation == "LEARN" else shared
        rows = _rows(8, unit * GROUP, max(p.numel() for p in tensors))
        one: tuple[Any, ...] = (None, None, 0, 0)
        if self._result is None:
            table: Any = self._backend.table(self._numbered, tensors, rows * unit, rank)
        else:
            t, theta = self._numbered[0]
            table = (None, 0, -(-theta.numel() // (rows * unit * GROUP)))
            one = (theta, self._result, theta.numel(), t)
        step = place[1]
        at = step if isinstance(step, Tensor) else None
        plain, addresses = [], []
        for number in (eps, rate, decay):
            plain.append(0.0 if isinstance(number, Tensor) else number)
            addresses.append(number if isinstance(number, Tensor) else None)
        numbers = (plain[0], times, plain[1], plain[2], at, *addresses, *one)
        kinds = {
            "OP": getattr(kernels, operation),
            "TYPE": getattr(kernels.tl, TYPES[tensors[0].dtype]),
            "KIND": NOISES.index(self._noise),
            **{"SHARED": shared, "UNIT": unit, "ROWS": rows, "RANK": rank},
        }
        _launch(tensors[0].device, "sweep", table, _keys(place), place[2], *numbers, **kinds)


def _launch(
    device: torch.device,
    name: str,
    table: tuple[Tensor | None, int, int],
    keys: Any,
    *numbers: Any,
    **how: Any,
) -> None:
    at, rows, programs = table
    if not programs:
        return
    kernel = getattr(_kernels(name == "sparse_sweep"), name)[(programs,)]
    with torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext():
        kernel(at, rows, *keys, *numbers, **how, num_warps=4, enable_fp_fusion=False)


def _keys(place: Place) -> tuple[int, int, int]:
    seed, step, _ = place
    return seed & _LOW, seed >> 32, 0 if isinstance(step, Tensor) else step


def _rows(usual: int, unit: int, largest: int) -> int:
    """Rows of tiles that a program takes; the interpreter, which is slow by programs, takes all."""
    if not INTERPRETED:
        return usual
    return 1 << max(0, (-(-largest // unit) - 1).bit_length())


@functools.cache
def _kernels(sparse: bool = False) -> Any:
    return importlib.import_module("ezo.kernels._triton" + ("_sparse" if sparse else ""))


@functools.cache
def _works(device: torch.device) -> bool:
    """Whether kernels can be built and run there; told once where not."""
    x = torch.empty(1, device=device)
    try:
        _Sweeps(Backend(), [(0, x)], "rademacher").fill((0, 0, 0))
        torch.cuda.synchronize(device)
    except Exception as error:
        warnings.warn(
            f"expected Triton to build kernels for {device}, got {type(error).__name__}: {error}; "
            "torch's own operations serve, to the same bits, far slower",
            stacklevel=2,
        )
        return False
    return True
