"""Sweeps over int8 weights in place: sparse integer noise applied, undone and learnt from.

Noise. Each 32-bit word of `ezo.noise.words` serves two weights with 16 bits each: the sign, and 15
bits y that choose the magnitude, 0 below a threshold P0 and one of 1 .. r_max, all equally
likely, above it:

    t   = max(y - P0, 0)
    |z| = (y >= P0) + (t M >> 16)       M = floor((2^16 r_max - 1) / (2^15 - P0 - 1))
    u   = t M mod 2^16                  left over, and nearly uniform: it rounds the update

which is z = mask * uniform{-r_max .. r_max}, where the mask keeps an entry with probability
1 - p_zero, but for granularity: exactly symmetric, magnitudes alike within 2 %. Element i of a
tensor: group i / 512, half (i % 512) / 256, word (i % 256) / 64, lane i % 64.

Step. Weights stay within +-(127 - r_max), so theta + z and theta - z are never clipped, and undoing
is exact. The update is rounded at random, once, so that its mean is what was asked for:

    theta <- clip(theta - g sign(z) ((|z| rate + u) >> 16))      g in {-1, 0, 1}, rate in 2^-16

With rate 2^(16-s) and u = 2^15 it is the paper's form as NITI would round it, z shifted by s bits.

Fraction. A rounded update of p last places, where p is small, has a variance of p (1 - p), many
times its square, and over thousands of steps that noise drowns what was learnt. A fraction, eight
more bits of each weight that only updates see, keeps what rounding would lose; r = 128 at first:

    theta' = 256 theta + r      theta' <- clip(theta' - g sign(z) ((|z| rate + (u >> 8)) >> 8))
    theta  = theta' >> 8, r = theta' mod 256
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ezo import kernels
from ezo import noise as _noise
from ezo.int8.rounding import LARGEST
from ezo.kernels import Place

SPARSE_GROUP = 512  # elements per group: 64 lanes of four words of two halves
RATE_BITS = 16  # a rate of 2^16 moves a weight by z
FRACTION_BITS = 8
HALF = 1 << (FRACTION_BITS - 1)  # a fraction at first, which makes theta the nearest to theta'


@dataclass(frozen=True)
class SparseNoise:
    """Distribution of the perturbation of an int8 weight.

    Attributes:
        r_max: largest magnitude, in last places of the weight; 1 to 63.
        p_zero: probability with which the mask drops an entry, in [0, 1).
    """

    r_max: int
    p_zero: float

    def __post_init__(self) -> None:
        if not 1 <= self.r_max <= 63:
            raise ValueError(f"expected r_max in [1, 63], got {self.r_max}")
        if not 0.0 <= self.p_zero < 1.0:
            raise ValueError(f"expected p_zero in [0, 1), got {self.p_zero}")
        if (1 << 15) - self.threshold <= self.r_max:
            raise ValueError(
                f"expected p_zero that leaves each magnitude a chance of 2^-15, got {self.p_zero}"
            )

    @functools.cached_property  # of a float, and so only once: when it is checked, before any step
    def threshold(self) -> int:
        """P0: z is 0 for 15-bit numbers below it."""
        p = self.p_zero + (1 - self.p_zero) / (2 * self.r_max + 1)
        return round(p * (1 << 15))

    @property
    def multiplier(self) -> int:
        """M, below 2^16: the largest with which no magnitude exceeds r_max."""
        return ((self.r_max << 16) - 1) // ((1 << 15) - self.threshold - 1)

    @property
    def bound(self) -> int:
        """What a weight's magnitude is held to: no perturbation then leaves int8's range."""
        return LARGEST - self.r_max


def draw(
    noise: SparseNoise,
    seed: int,
    step: int,
    tensor: int,
    stream: int,
    first: int,
    last: int,
    device: _noise.Device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Noise for the groups ``first`` to ``last`` - 1 of a tensor.

    Returns:
        (z, u): int64, ((last - first) * 512,): z in [-r_max, r_max], u in [0, 2^16).
    """
    w = _noise.words(seed, step, tensor, stream, first, last, device)  # group word lane
    half = torch.stack([w & 0xFFFF, w >> 16], dim=1).flatten()  # group half word lane
    y = half & 0x7FFF
    product = (y - noise.threshold).clamp_(min=0).mul_(noise.multiplier)
    z = (product >> 16).add_(y >= noise.threshold)
    return torch.where(half >> 15 == 1, -z, z), product.bitwise_and_(0xFFFF)


def shift_(
    parameters: Sequence[Tensor],
    noise: SparseNoise,
    place: Place,
    times: int,
    first_tensor: int = 0,
) -> None:
    """theta <- theta + times z, in place: 1 to perturb, -2 to cross over, 1 to come back.

    The t-th of the parameters, int8 on any device, is tensor ``first_tensor + t`` of the stream.
    Their magnitudes are at most ``noise.bound`` while unperturbed.
    """
    _check(parameters)
    kernels.sparse_shift(parameters, (noise, place, first_tensor), times)


def update_(
    parameters: Sequence[Tensor],
    noise: SparseNoise,
    place: Place,
    move: tuple[int, int, int],
    fractions: Sequence[Tensor] | None = None,
    first_tensor: int = 0,
) -> None:
    """theta <- clip(theta - g sign(z) ((|z| rate + u) >> 16)), in place.

    Args:
        parameters, noise, place, first_tensor: as in `shift_`.
        move: (g, rate, restore): the sign of loss+ - loss-; by how many last places a z of 1 moves
            its weight in the mean, times 2^16, 0 to 2^16; and 1, -1 or 0, where the weights stand
            at theta - restore z. All end in the same bits.
        fractions: uint8, of the parameters' shapes, changed in place; None for none.

    Raises:
        ValueError: g or the rate is out of range.
    """
    g, rate, _ = move
    if g not in (-1, 0, 1):
        raise ValueError(f"expected g of -1, 0 or 1, got {g}; pass the sign of loss+ - loss-")
    if not 0 <= rate <= 1 << RATE_BITS:
        raise ValueError(f"expected rate in [0, 2^{RATE_BITS}], got {rate}")
    _check(parameters)
    kernels.sparse_update(parameters, fractions, (noise, place, first_tensor), move)


def _check(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        if parameter.dtype != torch.int8 or not parameter.is_contiguous():
            raise ValueError(
                "expected contiguous int8 parameters, got "
                f"{parameter.dtype} with strides {parameter.stride()}; call contiguous()"
            )
