"""Roundings of x / 2^s one number at a time, by exact fractions and lists of bits."""

from fractions import Fraction


def nearest(x: int, s: int) -> int:
    exact = Fraction(abs(x), 2**s)
    below = exact.numerator // exact.denominator
    return _end(x, below + (exact - below >= Fraction(1, 2) and s > 0))


def nearest_unclipped(x: int, s: int) -> int:
    """x / 2^s, halves away from zero."""
    quotient, rest = divmod(abs(x), 2**s)
    return (quotient + (2 * rest >= 2**s)) * (1 if x > 0 else -1)


def stochastic(x: int, s: int, u: int) -> int:
    exact = Fraction(abs(x), 2**s)
    below = exact.numerator // exact.denominator
    return _end(x, below + (exact - below > Fraction(u % 2**s, 2**s)))


def pseudo_stochastic(x: int, s: int) -> int:
    return _end(x, abs(pseudo_stochastic_unclipped(x, s)))


def pseudo_stochastic_unclipped(x: int, s: int) -> int:
    if s == 0:
        return x
    bits = f"{abs(x):0{s + 1}b}"
    kept, dropped = bits[:-s], bits[-s:]
    cut = s - s // 2  # the upper part is the longer one
    upper, lower = dropped[:cut], dropped[cut:]
    if s % 2:
        lower += "0"
    magnitude = int(kept, 2) + (int(upper, 2) > int(lower or "0", 2))
    return magnitude if x >= 0 else -magnitude


def _end(x: int, magnitude: int) -> int:
    return min(magnitude, 127) * (1 if x >= 0 else -1)
