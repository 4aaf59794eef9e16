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

Weights of 16 bits are never moved to be perturbed (`ezo.perturbed`), and learn in one sweep,

    learn(...)               stochastic(theta - (lr g z + decay theta))

computed in float32 and rounded up or down at random, so that the mean is what was asked for. The 16
bits that decide come from the noise stream too, from its streams of 2^30 and more.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ezo import check
from ezo import kernels as _kernels
from ezo.kernels import Number, Place
from ezo.noise import NOISES

GRID = {torch.float32: 2.0**-22, torch.float64: 2.0**-51}
SCRATCH_BYTES = 64 * 1024
COARSE = (torch.float16, torch.bfloat16)
ROUNDING = 1 << 30  # the stream of a query's rounding, above the query's own


class Sweeper:
    """The sweeps over some parameters, which must stay where they are while it is in use.

    Args:
        parameters: any floating-point or complex tensors, on any device; the t-th is tensor number
            ``first_tensor + t`` of the noise stream, a complex one as its real and imaginary parts.
        noise: one of `ezo.noise.NOISES`.
        scratch_bytes: memory for noise where no kernel serves (a kernel's is some KiB); more is
            faster on an accelerator, and changes no bit.

    The sweeps' arguments:
        place: (seed, step, stream), where in the noise stream (`ezo.noise`).
        eps, rate: size of the perturbation; learning rate times projected gradient, lr g.
        times: 1 to perturb, -2 to cross over, 1 to come back.
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
    ) -> None:
        check.one_of("noise", noise, NOISES)
        # a complex number is two real ones, each with noise of its own
        real = [torch.view_as_real(p.detach()) if p.is_complex() else p for p in parameters]
        self._parts = _kernels.sweeps(real, noise, first_tensor, scratch_bytes)

    def shift(self, place: Place, eps: Number, times: float) -> None:
        """theta <- snap(theta) + times snap(eps z), in place."""
        for part in self._parts:
            part.shift(place, eps, times)

    def update(self, place: Place, eps: Number, rate: Number, decay: Number, restore: bool) -> None:
        """theta <- theta - rate z - decay theta, in place, from theta - e where ``restore``."""
        for part in self._parts:
            part.update(place, eps, rate, decay, restore)

    def learn(self, place: Place, rate: Number, decay: Number) -> None:
        """theta <- theta - rate z - decay theta, in place, 16 bits, rounded at random."""
        for part in self._parts:
            part.learn(place, rate, decay)

    def fill(self, place: Place) -> None:
        """theta <- z, in place."""
        for part in self._parts:
            part.fill(place)


def stochastic(x: Tensor, u: Tensor, dtype: torch.dtype) -> Tensor:
    """float32 to a type of 16 bits, away from 0 with the probability of what is left over.

    Args:
        u: 16 random bits each, int64. Of float16's 13 bits that are left over, 13 decide.
    """
    if dtype == torch.bfloat16:
        return _up(x, u, 16).to(dtype)
    least = torch.finfo(dtype).smallest_normal  # below it numbers are as far apart as above
    size = x.abs()
    small = (size < least).to(torch.float32) * least
    held = _up(size + small, u >> 3, 13) - small
    return torch.where(x < 0, -held, held).to(dtype)


def _up(x: Tensor, u: Tensor, bits: int) -> Tensor:
    """float32 with ``u`` added to its lowest bits, which are then cleared."""
    raw = x.view(torch.int32).to(torch.int64).add_(u) >> bits << bits
    return raw.to(torch.int32).view(torch.float32)


def kernels() -> str:
    """The compiled path's instruction set, or ``reference`` where there is no compiled path."""
    return _kernels.serving()
