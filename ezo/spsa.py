"""Simultaneous perturbation stochastic approximation (Spall 1992): the slope along the noise."""

import math


def slope(change: float, eps: float, clip: float | None = None) -> float:
    """g = change / (2 eps), the slope of the loss along z, clipped to +-clip.

    g z estimates the gradient: E[g z] -> grad as eps -> 0, for z of mean 0 and covariance I.

    Args:
        change: of the loss over a span of 2 eps z (`ezo.estimators`), as from theta - eps z to
            theta + eps z.
        eps: size of the perturbation, above 0.
        clip: largest magnitude, or None.

    Returns:
        g, or NaN where the change is not finite.

    >>> slope(1.0, eps=0.25)
    2.0
    >>> slope(1.0, eps=0.25, clip=1.0)
    1.0
    """
    if not math.isfinite(change):
        return math.nan
    g = change / (2 * eps)
    return g if clip is None else max(-clip, min(clip, g))
