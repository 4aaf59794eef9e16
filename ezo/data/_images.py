"""Images turned and scaled in integers: the same bits on every processor."""

import math
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

BITS = 16  # of the fraction of a source coordinate
TURN_BITS = 30  # of a sine and a cosine


def rotate(images: Tensor, degrees: int) -> Tensor:
    """Turn square images counter-clockwise about their centre (bilinear); beyond them lies black.

    Source coordinates are rounded to 2^-16 of a pixel, far coarser than what processors' sines
    differ by. From there on everything is integers, and exact.

    Args:
        images: (N, S, S) of integers from 0, which is black, to 2^20.

    Returns:
        (N, S, S), float64, in the unit of ``images``; multiples of 2^-32, which it holds exactly.
    """
    side = images.shape[-1]
    flat = images.reshape(len(images), -1).long()
    found = torch.zeros_like(flat)
    for index, weight in _taps(side, degrees % 360):
        found += flat[:, torch.from_numpy(index)] * torch.from_numpy(weight)
    return (found.double() * 2.0 ** (-2 * BITS)).reshape(images.shape)


def _taps(side: int, degrees: int) -> Iterable[tuple[np.ndarray, np.ndarray]]:
    """The four pixels that make each pixel: flat index and weight times 2^32, (S * S,) each."""
    one = 1 << TURN_BITS
    cos, sin = (round(f(math.radians(degrees)) * one) for f in (math.cos, math.sin))
    twice = 2 * np.arange(side, dtype=np.int64) - (side - 1)  # the distance to the centre
    right, up = twice[None, :], -twice[:, None]
    middle = (side - 1) * one  # all in 2^-31 pixels
    drop = TURN_BITS + 1 - BITS
    row = (middle - (cos * up - sin * right) + (1 << (drop - 1))) >> drop
    column = (middle + cos * right + sin * up + (1 << (drop - 1))) >> drop
    whole, low = 1 << BITS, (1 << BITS) - 1
    for below in (0, 1):
        i, weight_i = (row >> BITS) + below, (row & low if below else whole - (row & low))
        for beside in (0, 1):
            j = (column >> BITS) + beside
            weight_j = column & low if beside else whole - (column & low)
            inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            index = np.where(inside, i * side + j, 0)
            yield index.ravel(), np.where(inside, weight_i * weight_j, 0).ravel()


def enlarge(images: Tensor, side: int) -> Tensor:
    """Scale square images up to ``side`` pixels (bilinear, the border's pixels repeated), exactly.

    Args:
        images: (N, S, S) of integers.

    Returns:
        (N, side, side), int64: the exact values times (2 side)^2.
    """
    small = images.shape[-1]
    unit = 2 * side
    ways = np.zeros((side, small), np.int64)  # each row sums to the unit
    for i in range(side):
        at = max((2 * i + 1) * small - side, 0)  # the source coordinate, in units
        first, part = divmod(at, unit)
        ways[i, first] += unit - part
        ways[i, min(first + 1, small - 1)] += part
    numbers = images.long().numpy()
    return torch.from_numpy(ways @ numbers @ ways.T)


def mean_and_deviation(total: int, squares: int, n: int) -> tuple[float, float]:
    """Mean and standard deviation of n integers with this sum and sum of squares, from exact sums.

    >>> mean_and_deviation(3, 5, 2)
    (1.5, 0.5)
    """
    return total / n, math.sqrt(n * squares - total * total) / n
