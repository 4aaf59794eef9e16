"""Numbers of an integer network: an int8 mantissa for each, one exponent for all."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ezo.int8.rounding import LARGEST

LARGEST_EXPONENT = 1 << 12  # that a state dict may give


@dataclass(frozen=True)
class Int8Tensor:
    """Values m 2^E, with m in [-127, 127], int8 (the last layer's accumulators are int32)."""

    m: Tensor
    e: int

    def to_float(self) -> Tensor:
        """The values, as float32; for looking at."""
        return torch.ldexp(self.m.to(torch.float32), torch.tensor(self.e))


@dataclass(frozen=True)
class AtPoints(Int8Tensor):
    """Numbers (N, C), maxima over points or their errors, each of point ``where`` of ``points``."""

    where: Tensor
    points: int


def quantize(x: Tensor, largest: int = LARGEST, lowest_exponent: int | None = None) -> Int8Tensor:
    """The nearest int8 tensor to finite floating-point numbers; outside a training step.

    The exponent is the smallest with which no magnitude exceeds ``largest``, 1 to 127, so the
    largest value uses at least half the range; and not below ``lowest_exponent``, which zeros get
    (without it: 0).

    Raises:
        ValueError: ``largest`` is out of range, or x holds a number that is not finite.

    >>> quantize(torch.tensor([0.5, -0.25, 0.0]))
    Int8Tensor(m=tensor([ 64, -32,   0], dtype=torch.int8), e=-7)
    """
    if not 1 <= largest <= LARGEST:
        raise ValueError(f"expected largest in [1, {LARGEST}], got {largest}")
    if not bool(torch.isfinite(x).all()):
        raise ValueError("expected finite numbers, got NaN or infinity; mend the data or the model")
    wide = x.detach().to(torch.float64)
    top = wide.abs().max().item() if wide.numel() else 0.0
    if top == 0.0:
        return Int8Tensor(torch.zeros_like(wide, dtype=torch.int8), lowest_exponent or 0)
    e = math.frexp(top)[1] - 8
    if lowest_exponent is not None:
        e = max(e, lowest_exponent)
    while round(top * 2.0**-e) > largest:
        e += 1
    return Int8Tensor(torch.round(wide * 2.0**-e).to(torch.int8), e)


def quantize_at(x: Tensor, e: int) -> Int8Tensor:
    """The nearest int8 tensor with exponent ``e``; values beyond +-127 2^e are held there.

    >>> quantize_at(torch.tensor([0.3, -5.0]), -5)
    Int8Tensor(m=tensor([  10, -127], dtype=torch.int8), e=-5)
    """
    m = torch.round(x.to(torch.float64) * 2.0**-e).clamp_(-LARGEST, LARGEST)
    return Int8Tensor(m.to(torch.int8), e)


def exponents(name: str, found: Any, n: int) -> list[int]:
    """Of a state dict.

    Raises:
        ValueError: they are not ``n`` that an int8 tensor can have.
    """
    whole = isinstance(found, Tensor) and found.dtype in (torch.int32, torch.int64)
    if not whole or found.numel() != n or found.abs().max() > LARGEST_EXPONENT:
        got = found if not isinstance(found, Tensor) else (found.dtype, tuple(found.shape))
        raise ValueError(
            f"expected {name} to hold {n} integers within {LARGEST_EXPONENT}, got {got!r:.80}; "
            "take an integer network's state_dict()"
        )
    return [int(e) for e in found.flatten().tolist()]
