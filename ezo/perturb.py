"""Sweeps over parameters in place: noise applied, undone, replayed, in bounded scratch.

A zeroth-order step (Malladi et al. 2023, MeZO; three sweeps instead of its four) is

    shift_(eps, times=1)      theta + e          e = snap(eps z)
    shift_(eps, times=-2)     theta - e
    update_(..., restore)     theta + (snap((eps - lr g) z - decay theta) - e)

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

import importlib
import warnings
from collections.abc import Iterator, Sequence
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
_warned = False


def shift_(
    parameters: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    eps: float,
    times: float = 1.0,
    noise: str = "gaussian",
    stream: int = 0,
    scratch_bytes: int = SCRATCH_BYTES,
    reference: bool = False,
    first_tensor: int = 0,
) -> None:
    """theta <- snap(theta) + times snap(eps z), in place.

    Args:
        parameters: any floating-point tensors, on any device; the t-th is tensor number
            ``first_tensor + t`` of the noise stream.
        seed, step, stream: where in the noise stream (`ezo.noise`).
        eps: size of the perturbation.
        times: 1 to perturb, -2 to cross over, 1 to come back.
        noise: ``gaussian``, ``rademacher`` or ``uniform``.
        scratch_bytes: memory for noise, outside the compiled path (whose scratch is 2 KiB);
            more is faster on an accelerator, and changes no bit.
        reference: never use the compiled path.
    """
    _check(noise, seed, step, stream)
    place = (seed, step, stream)
    rest = _compiled(
        parameters, "shift", place, noise, reference, first_tensor, (float(eps), float(times))
    )

    for t, parameter in rest:
        grid = GRID.get(parameter.dtype)
        for theta, z in _chunks(parameter, noise, place, t, scratch_bytes):
            e = _snap(z.mul_(eps), grid)
            theta.put(_snap(theta.take(), grid).add_(e.mul_(times)))


def update_(
    parameters: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    eps: float,
    rate: float,
    decay: float = 0.0,
    restore: bool = True,
    noise: str = "gaussian",
    stream: int = 0,
    scratch_bytes: int = SCRATCH_BYTES,
    reference: bool = False,
    first_tensor: int = 0,
) -> None:
    """theta <- theta - rate z - decay theta, in place, from theta - e where ``restore``.

    Args:
        rate: learning rate times projected gradient, lr g.
        decay: learning rate times weight decay.
        restore: the parameters stand at theta - e; otherwise at theta, as when a run is
            replayed from its seeds and scalars. Both end in the same bits.
        parameters, seed, step, eps, noise, stream, scratch_bytes, reference: as in `shift_`.
    """
    _check(noise, seed, step, stream)
    place = (seed, step, stream)
    how = (float(eps), float(eps) - float(rate), float(decay), restore)
    rest = _compiled(parameters, "update", place, noise, reference, first_tensor, how)
    for t, parameter in rest:
        grid = GRID.get(parameter.dtype)
        for theta, z in _chunks(parameter, noise, place, t, scratch_bytes):
            e = _snap(z * eps, grid)
            old = theta.take().add_(e) if restore else _snap(theta.take(), grid)
            wanted = _snap(z.mul_(eps - rate).sub_(old * decay), grid)
            theta.put(old.add_(wanted.sub_(e)))


def fill_(
    parameters: Sequence[Tensor],
    *,
    seed: int,
    step: int,
    noise: str = "gaussian",
    stream: int = 0,
    reference: bool = False,
    first_tensor: int = 0,
) -> None:
    """theta <- z, in place: the noise itself, for looking at. Arguments as in `shift_`."""
    _check(noise, seed, step, stream)
    place = (seed, step, stream)
    for t, parameter in _compiled(parameters, "fill", place, noise, reference, first_tensor, ()):
        for theta, z in _chunks(parameter, noise, place, t, SCRATCH_BYTES):
            theta.put(z)


def kernels() -> str:
    """The compiled path's instruction set, or ``reference`` where there is no compiled path."""
    return "reference" if _kernels is None else _kernels.instruction_sets()[0]


def _check(noise: str, seed: int, step: int, stream: int) -> None:
    if noise not in _noise.NOISES:
        raise ValueError(f"expected noise to be one of {', '.join(_noise.NOISES)}, got '{noise}'")
    for name, value, bits in (("seed", seed, 64), ("step", step, 32), ("stream", stream, 32)):
        if not 0 <= value < 1 << bits:
            raise ValueError(f"expected {name} in [0, 2^{bits}), got {value}")


def _compiled(
    parameters: Sequence[Tensor],
    sweep: str,
    place: tuple[int, int, int],
    noise: str,
    reference: bool,
    first_tensor: int,
    how: tuple[float, ...],
) -> list[tuple[int, Tensor]]:
    """Sweep over what the compiled path takes; return the rest, with tensor numbers."""
    fits: list[tuple[int, int, int]] = []
    rest: list[tuple[int, Tensor]] = []
    for t, p in enumerate(parameters, start=first_tensor):
        if p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous():
            fits.append((p.data_ptr(), p.numel(), t))
        else:
            rest.append((t, p))
    if _kernels is None or reference:
        if fits and not reference:
            _warn_once()
        return list(enumerate(parameters, start=first_tensor))
    if fits:
        kind = _noise.NOISES.index(noise)
        getattr(_kernels, sweep)(fits, *place, kind, torch.get_num_threads(), "", *how)
        for p in parameters:
            if p.dtype == torch.float32 and p.device.type == "cpu" and p.is_contiguous():
                torch.autograd.graph.increment_version(p)
    return rest


def _warn_once() -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"no compiled kernels in {__file__}'s ezo; the torch reference draws the same noise, "
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
    for first in range(0, size, groups * _noise.GROUP):
        last = min(size, first + groups * _noise.GROUP)
        g = first // _noise.GROUP
        z = _noise.draw(noise, seed, step, t, stream, g, -(-last // _noise.GROUP), parameter.device)
        yield _Chunk(parameter.detach(), first, last, dtype), z[: last - first].to(dtype)
