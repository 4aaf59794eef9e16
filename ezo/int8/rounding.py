"""Integers divided by powers of two, three ways, and the bit width that says by which.

All act on magnitudes and put the sign back: flooring negative numbers would bias them by almost
one unit. With q = |x| >> s and r = the low s bits of |x|:

    nearest              q + 1 where r >= 2^(s-1)
    stochastic           q + 1 where r > u, u uniform on {0 .. 2^s - 1}
    pseudo-stochastic    q + 1 where the upper half of r's bits exceeds the lower half

The last (NITI, Wang et al., arXiv 2009.13108) needs no random numbers: r's low bits serve as u.
"""

from collections.abc import Callable
from contextvars import ContextVar

import torch
from torch import Tensor

LARGEST = 127  # of an int8 magnitude: -128 is not used, so that every number has its negative
# Makes the bits of a part of a batch those of the whole one, where ranks share it (`ezo.ranks`).
agreement: ContextVar[Callable[[int], int] | None] = ContextVar("agreement", default=None)
ROUNDINGS = ("nearest", "stochastic", "pseudo-stochastic")


def bit_width(x: Tensor) -> int:
    """Bits of the largest magnitude in ``x``, an integer tensor; 0 where it is all zero or empty.

    >>> [bit_width(torch.tensor([m, 0])) for m in (0, 1, 127, -128)]
    [0, 1, 7, 8]
    """
    return int(x.to(torch.int64).abs().max()).bit_length() if x.numel() else 0


def batch_shift(bits: int) -> int:
    """The shift by which a batch is requantized, s = max(0, bits - 7) (NITI).

    ``bits`` are of the largest magnitude of all a layer's accumulators: the one place where parts
    of a batch, chunks or ranks, have to agree.
    """
    agree = agreement.get()
    return max(0, (bits if agree is None else agree(bits)) - 7)


def shift(
    x: Tensor, s: int, rounding: str, u: Tensor | None = None, *, wide: bool = False
) -> Tensor:
    """x / 2^s, rounded and clipped to +-127; ``s`` of 0 or less leaves x but for the clipping.

    Args:
        x: integers of any type and shape, magnitudes below 2^62.
        s: bits to drop.
        rounding: one of `ROUNDINGS`.
        u: for ``stochastic``: non-negative integers of x's shape whose low ``s`` bits are random.
        wide: don't clip, and return int64 in place of int8.

    Raises:
        ValueError: an unknown rounding, or ``stochastic`` without ``u``.

    >>> shift(torch.tensor([-6, -5, 5, 6, 2000]), 2, "nearest").tolist()
    [-2, -1, 1, 2, 127]
    """
    if rounding not in ROUNDINGS:
        raise ValueError(f"expected rounding to be one of {', '.join(ROUNDINGS)}, got '{rounding}'")
    if rounding == "stochastic" and u is None:
        raise ValueError("expected random integers u for stochastic rounding, got None; pass u")
    x = x.to(torch.int64)
    magnitude = x.abs()
    if s > 0:
        s = min(s, 62)
        r = magnitude & ((1 << s) - 1)
        if rounding == "nearest":
            up = r >= 1 << (s - 1)
        elif rounding == "stochastic":
            assert u is not None
            up = r > (u & ((1 << s) - 1))
        else:
            up = _pseudo_stochastic(r, s)
        magnitude = (magnitude >> s) + up
    if wide:
        return magnitude * x.sign()
    return (magnitude.clamp(max=LARGEST) * x.sign()).to(torch.int8)


def quotient(x: Tensor, d: int) -> Tensor:
    """x / d of integers, rounded to nearest, halves away from zero.

    >>> quotient(torch.tensor([-3, -1, 1, 3, 4]), 2).tolist()
    [-2, -1, 1, 2, 2]
    """
    magnitude = torch.div(2 * x.abs() + d, 2 * d, rounding_mode="floor")
    return magnitude * x.sign()


def _pseudo_stochastic(r: Tensor, s: int) -> Tensor:
    half = s // 2
    upper, lower = r >> half, r & ((1 << half) - 1)
    if s % 2:
        lower = lower << 1
    return upper > lower
