"""Sums of two tensors and means of blocks, in int32 until they are requantized; plain torch.

Index letters: n example, c channel, h w position.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ezo.int8.rounding import quotient, shift

MEAN_BITS = 8  # of a mean, below its input's last place
FURTHEST = 16  # bits that the numbers of a sum are moved apart


def meet(a: int, b: int) -> int:
    """The exponent at which numbers of two exponents are added up.

    It is the smaller one, so that nothing is lost, unless they are further apart than `FURTHEST`.

    >>> meet(-3, -5), meet(0, -40)
    (-5, -16)
    """
    return max(min(a, b), max(a, b) - FURTHEST)


def add(a: Tensor, b: Tensor, left: tuple[int, int]) -> Tensor:
    """a 2^left + b 2^left', int8 to int32; where one is negative that is rounded to nearest.

    Both are at most `FURTHEST`, as `meet` makes them, so that no sum overflows.
    """
    moved = [
        x.to(torch.int32) << by if by >= 0 else shift(x, -by, "nearest").to(torch.int32)
        for x, by in zip((a, b), left, strict=True)
    ]
    return moved[0] + moved[1]


def average(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Means of the ``size`` blocks of int8 (N, C, H, W), int32, in units of 2^-`MEAN_BITS`.

    Rounded to nearest, halves away from zero; what does not fill a block is left out.
    """
    n, c, h, w = x.shape
    high, wide = size
    blocks = x[:, :, : h // high * high, : w // wide * wide]
    blocks = blocks.reshape(n, c, h // high, high, w // wide, wide)
    total = blocks.sum((3, 5), dtype=torch.int64)
    return quotient(total << MEAN_BITS, high * wide).to(torch.int32)


def average_backward(
    grad_output: Tensor, shape: Sequence[int], size: tuple[int, int]
) -> tuple[Tensor, int]:
    """Errors (N, C, H', W') to errors of ``shape`` (N, C, H, W) 2^-k, and k.

    An error is divided by a block's numbers, of which 2^k is the power of two below.
    """
    k = (size[0] * size[1]).bit_length() - 1
    part = quotient(grad_output.to(torch.int64) << k, size[0] * size[1]).to(torch.int8)
    part = part.repeat_interleave(size[0], 2).repeat_interleave(size[1], 3)
    found = grad_output.new_zeros(tuple(shape))
    found[:, :, : part.shape[2], : part.shape[3]] = part
    return found, k
