"""Sums, means, convolutions and squared errors of integers, one number at a time in Python."""

from fractions import Fraction
from math import floor

from tests.oracles.rounding import nearest_unclipped


def rounded(x: Fraction) -> int:
    """To nearest, halves away from zero."""
    return (floor(abs(x) + Fraction(1, 2))) * (1 if x >= 0 else -1)


def added(a: int, b: int, left: tuple[int, int]) -> int:
    def moved(m: int, by: int) -> int:
        return m << by if by >= 0 else nearest_unclipped(m, -by)

    return moved(a, left[0]) + moved(b, left[1])


def mean(numbers: list[int]) -> int:
    """In units of 2^-8."""
    return rounded(Fraction(256 * sum(numbers), len(numbers)))


def convolved(x, weight, padding, stride, groups):
    """Nested lists (N, C, H, W) and (O, C / groups, K, K') to a dict of (n, o, y, p)."""
    top, bottom, left, right = padding
    high, wide = len(weight[0][0]), len(weight[0][0][0])
    rows = (len(x[0][0]) + top + bottom - high) // stride[0] + 1
    columns = (len(x[0][0][0]) + left + right - wide) // stride[1] + 1
    of_group = len(weight) // groups
    found = {}
    for n, image in enumerate(x):
        for o, kernel in enumerate(weight):
            first = o // of_group * len(kernel)
            for y in range(rows):
                for p in range(columns):
                    total = 0
                    for c, plane in enumerate(kernel):
                        for i, row in enumerate(plane):
                            for j, w in enumerate(row):
                                yy, xx = y * stride[0] + i - top, p * stride[1] + j - left
                                if 0 <= yy < len(image[0]) and 0 <= xx < len(image[0][0]):
                                    total += w * image[first + c][yy][xx]
                    found[n, o, y, p] = total
    return found


def squared_error(output, e, target, f):
    """An example's, in real numbers."""
    both = zip(output, target, strict=True)
    apart = [Fraction(2) ** e * a - Fraction(2) ** f * t for a, t in both]
    return sum(d * d for d in apart) / len(apart)
