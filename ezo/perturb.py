"""Sweeps over parameters in place: noise applied, undone, replayed, in bounded scratch.

A zeroth-order step (Malladi et al. 2023, MeZO; three sweeps instead of its four) is

    shift(eps, times=1)      theta + e          e = snap(eps z)
    shift(eps, times=-2)     theta - e
    update(..., restore)     theta + (snap((eps - lr g) z - decay theta) - e)

Snapping makes the undoing exact. Parameters live on a grid of spacing `GRID` (2^-22 for
float32, 2^-51 for float64), and so does e; on a grid no addition rounds while |theta| + 2 |e| < 4,
so with g = 0 the last sweep gives theta back bit for bit, however many steps. Beyond 4, and for
float16 and bfloat16, which have too few bits for a grid, the sweeps round like any arithmetic of
that type. The first sweep over a parameter snaps it: a change of at most GRID / 2, once.

The update is the difference of two snapped numbers, of which the first holds eps z: a random
offset against which small updates are rounded up as often as they should be, and none is lost for
being smaller than the grid. (Except with Rademacher noise, whose eps z is no random offset: there
an update is rounded to the grid, and below half its spacing, 1.2e-7, it is lost.)
"""

import contextlib
import importlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ezo import noise as _noise

_kernels: Any
try:
    _kernels = importlib.import_module("ezo._kernels")
except ImportError:
    _kernels = None

GRID = {torch.float32: 2.0**-22, torch.float64: 2.0**-51}
SCRATCH_BYTES = 64 * 1024
SWEEP_SECONDS = 0.5e-9  # a parameter, for one of a step's three sweeps; a core, roughly
_warned = False
_world: ContextVar[dict[Any, Any] | None] = ContextVar("world", default=None)
sweeping = ContextVar("sweeping", default=False)  # whether tensors made now are scratch


@contextlib.contextmanager
def shapes_only(spend: Callable[[float], None] = lambda seconds: None) -> Iterator[None]:
    """Within, sweeps take the memory they need and leave parameters alone: for `ezo.plan`.

    Its parameters are shapes without numbers, which the compiled path could not write to.

    Args:
        spend: is told the seconds that a step's compiled sweeps would take, roughly.
    """
    token = _world.set({"spend": spend})
    try:
        yield
    finally:
        _world.reset(token)


def world() -> dict[Any, Any] | None:
    """Within `shapes_only`, what is kept until it ends, by any key; None outside."""
    return _world.get()


class Sweeper:
    """The sweeps over some parameters, which must stay where they are while it is in use.

    Args:
        parameters: any floating-point tensors, on any device; the t-th is tensor number
            ``first_tensor + t`` of the noise stream.
        noise: ``gaussian``, ``rademacher`` or ``uniform``.
        first_tensor: number of the first tensor.
        scratch_bytes: memory for noise, outside the compiled path (whose scratch is 2 KiB);
            more is faster on an accelerator, and changes no bit.
        reference: never use the compiled path.

    The sweeps' arguments:
        place: (seed, step, stream), where in the noise stream (`ezo.noise`).
        eps: size of the perturbation.
        times: 1 to perturb, -2 to cross over, 1 to come back.
        rate: learning rate times projected gradient, lr g.
        decay: learning rate times weight decay.
        restore: the parameters stand at theta - e; otherwise at theta, as when a run is
            replayed from its seeds and scalars. Both end in the same bits.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        *,
        noise: str = "gaussian",
        first_tensor: int = 0,
        scratch_bytes: int = SCRATCH_BYTES,
        reference: bool = False,
    ) -> None:
        if noise not in _noise.NOISES:
            raise ValueError(
                f"expected noise to be one of {', '.join(_noise.NOISES)}, got '{noise}'"
            )
        self._noise, self._kind = noise, _noise.NOISES.index(noise)
        self._scratch_bytes = scratch_bytes
        self._fits: list[Tensor] = []
        self._compiled: list[tuple[int, int, int]] = []
        self._rest: list[tuple[int, Tensor]] = []
        for t, p in enumerate(parameters, start=first_tensor):
            # (`is_cpu` is the cheap form of `device.type`)
            if not reference and p.is_cpu and p.dtype is torch.float32 and p.is_contiguous():
                self._fits.append(p)
                address = p.data_ptr() if world() is None else 0
                self._compiled.append((address, p.numel(), t))
            else:
                self._rest.append((t, p))
        if _kernels is None and self._fits:
            warn_once()
            self._rest = list(enumerate(parameters, start=first_tensor))
            self._fits, self._compiled = [], []
        if (shapes := world()) is not None:
            shapes["spend"](3 * SWEEP_SECONDS * sum(p.numel() for p in self._fits))
            self._fits, self._compiled = [], []

    def shift(self, place: tuple[int, int, int], eps: float, times: float) -> None:
        """theta <- snap(theta) + times snap(eps z), in place."""
        if self._fits:
            _kernels.shift(*self._where(place), eps, times)
        for t, parameter in self._rest:
            grid = GRID.get(parameter.dtype)
            for theta, z in _chunks(parameter, self._noise, place, t, self._scratch_bytes):
                e = _snap(z.mul_(eps), grid)
                theta.put(_snap(theta.take(), grid).add_(e.mul_(times)))

    def update(
        self, place: tuple[int, int, int], eps: float, rate: float, decay: float, restore: bool
    ) -> None:
        """theta <- theta - rate z - decay theta, in place, from theta - e where ``restore``."""
        if self._fits:
            _kernels.update(*self._where(place), eps, eps - rate, decay, restore)
        for t, parameter in self._rest:
            grid = GRID.get(parameter.dtype)
            for theta, z in _chunks(parameter, self._noise, place, t, self._scratch_bytes):
                e = _snap(z * eps, grid)
                old = theta.take().add_(e) if restore else _snap(theta.take(), grid)
                wanted = _snap(z.mul_(eps - rate).sub_(old * decay), grid)
                theta.put(old.add_(wanted.sub_(e)))

    def fill(self, place: tuple[int, int, int]) -> None:
        """theta <- z, in place."""
        if self._fits:
            _kernels.fill(*self._where(place))
        for t, parameter in self._rest:
            for theta, z in _chunks(parameter, self._noise, place, t, self._scratch_bytes):
                theta.put(z)

    def _where(self, place: tuple[int, int, int]) -> tuple[Any, ...]:
        """The kernels' first arguments; addresses are looked at again before they are written to.

        Raises:
            RuntimeError: a parameter has been moved.
        """
        for p, (address, _, _) in zip(self._fits, self._compiled, strict=True):
            if p.data_ptr() != address:
                raise RuntimeError(
                    "expected the parameters to stay where they are during a step, but one got "
                    "new memory; don't move or convert the model in the closure"
                )
        return (self._compiled, *place, self._kind, torch.get_num_threads(), "")


def shift_(
    parameters: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    eps: float,
    times: float = 1.0,
    stream: int = 0,
    **how: Any,
) -> None:
    """theta <- snap(theta) + times snap(eps z), in place. Arguments as in `Sweeper`."""
    Sweeper(parameters, **how).shift(_place(seed, step, stream), float(eps), float(times))
    torch.autograd.graph.increment_version(parameters)


def update_(
    parameters: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    eps: float,
    rate: float,
    decay: float = 0.0,
    restore: bool = True,
    stream: int = 0,
    **how: Any,
) -> None:
    """theta <- theta - rate z - decay theta, in place, from theta - e where ``restore``.

    Arguments as in `Sweeper`.
    """
    Sweeper(parameters, **how).update(
        _place(seed, step, stream), float(eps), float(rate), float(decay), restore
    )
    torch.autograd.graph.increment_version(parameters)


def fill_(
    parameters: Sequence[Tensor], *, seed: int, step: int, stream: int = 0, **how: Any
) -> None:
    """theta <- z, in place: the noise itself, for looking at. Arguments as in `Sweeper`."""
    Sweeper(parameters, **how).fill(_place(seed, step, stream))
    torch.autograd.graph.increment_version(parameters)


def kernels() -> str:
    """The compiled path's instruction set, or ``reference`` where there is no compiled path."""
    return "reference" if _kernels is None else _kernels.instruction_sets()[0]


def _place(seed: int, step: int, stream: int) -> tuple[int, int, int]:
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("stream", stream, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"expected {name} in [0, 2^{bits}), got {value}")
    return seed, step, stream


def warn_once() -> None:
    """Say that there are no kernels, the first time."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"no compiled kernels in {__file__}'s ezo; the torch reference gives the same bits, "
            "some 30 times slower. To get the kernels, install ezo where there is a C++17 "
            "compiler; in a clone, whose own files Python finds first, with pip install -e .",
            stacklevel=4,
        )


def _snap(x: Tensor, grid: float | None) -> Tensor:
    """Round to the grid, in place."""
    return x if grid is None else x.mul_(1 / grid).round_().mul_(grid)


def _group_bytes(parameter: Tensor) -> int:
    """The reference's peak for one group: words, noise, sums, and where they go (tested)."""
    wide = parameter.dtype == torch.float64
    return (8 + 4 * wide + 4 * (not parameter.is_contiguous())) * 1024


class _Chunk:
    """Elements ``first`` to ``last`` - 1 of a tensor in row-major order, whatever its strides."""

    def __init__(self, tensor: Tensor, first: int, last: int, dtype: torch.dtype) -> None:
        self.dtype = dtype
        if tensor.is_contiguous():
            self.tensor = tensor.view(-1)
            self.at: slice | Tensor = slice(first, last)
        else:
            last_place = sum((n - 1) * stride for n, stride in _axes(tensor))
            self.tensor = tensor.as_strided((last_place + 1,), (1,))
            self.at = _places(tensor, first, last)

    def take(self) -> Tensor:
        """A copy, in the type to compute in."""
        return self.tensor[self.at].to(self.dtype, copy=True)

    def put(self, values: Tensor) -> None:
        self.tensor[self.at] = values.to(self.tensor.dtype)


def _axes(tensor: Tensor) -> list[tuple[int, int]]:
    return list(zip(tensor.shape, tensor.stride(), strict=True))


def _places(tensor: Tensor, first: int, last: int) -> Tensor:
    """Where elements ``first`` to ``last`` - 1 stand in memory, counted from the first of all."""
    rest = torch.arange(first, last, device=tensor.device)
    at = torch.zeros_like(rest)
    for n, stride in reversed(_axes(tensor)):
        at.add_(rest % n, alpha=stride)
        rest.div_(n, rounding_mode="floor")
    return at


@torch.no_grad()
def _chunks(
    parameter: Tensor, noise: str, place: tuple[int, int, int], t: int, scratch_bytes: int
) -> Iterator[tuple[_Chunk, Tensor]]:
    """Pieces of a parameter, each with its noise in the type to compute in."""
    dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
    seed, step, stream = place
    groups = max(1, scratch_bytes // _group_bytes(parameter))
    size = parameter.numel()
    token = sweeping.set(True)
    try:
        for first in range(0, size, groups * _noise.GROUP):
            last = min(size, first + groups * _noise.GROUP)
            g, end = first // _noise.GROUP, -(-last // _noise.GROUP)
            z = _noise.draw(noise, seed, step, t, stream, g, end, parameter.device)
            yield _Chunk(parameter.detach(), first, last, dtype), z[: last - first].to(dtype)
            if first and world() is not None:
                return  # no later chunk is larger, or finds more left of the one before
    finally:
        sweeping.reset(token)
