"""A layer's update from nodes, one number at a time, in Python's integers."""

from tests.oracles.rounding import nearest_unclipped
from tests.oracles.rounding import pseudo_stochastic_unclipped as pseudo_stochastic


def halves_away(x, d):
    """x / d to the nearest, halves away from zero."""
    q = (2 * abs(x) + d) // (2 * d)
    return q if x >= 0 else -q


def moved(w, fraction, by):
    """A weight and its fraction, or None, after a move by ``by``."""
    if fraction is None:
        return max(-127, min(127, w - by)), None
    fine = max(-127 * 256, min(127 * 256 + 255, 256 * w + fraction - by))
    return fine // 256, fine % 256


def update(weight, bias, xs, noise, differences, on, rates):
    """Weight and bias, lists of (w, fraction), after the update.

    Args:
        weight: [u][k]. bias: [u], or None.
        xs: [i][u][k], the input that a unit learns from.
        noise, on: [i][u].
        rates: (times, shift) of the weight, the bias, and the bias along the mean.
    """
    of_weight, of_bias, of_mean = rates
    n, units = len(xs), len(weight)
    new_weight, new_bias = [], None if bias is None else []
    for u in range(units):
        e = [differences[i] * noise[i][u] * on[i][u] for i in range(n)]
        total = sum(e)
        if bias is not None:
            centre = halves_away(total, n)
            e = [max(-127, min(127, v - centre)) for v in e]
        along, row = 0, []
        for k, (w, fraction) in enumerate(weight[u]):
            gradient = sum(e[i] * xs[i][u][k] for i in range(n))
            along += gradient * halves_away(256 * sum(xs[i][u][k] for i in range(n)), n)
            row.append(moved(w, fraction, pseudo_stochastic(gradient * of_weight[0], of_weight[1])))
        new_weight.append(row)
        if bias is not None:
            by = pseudo_stochastic(total * of_bias[0], of_bias[1])
            by -= pseudo_stochastic(nearest_unclipped(along, 16) * of_mean[0], of_mean[1])
            new_bias.append(moved(*bias[u], by))
    return new_weight, new_bias
