"""Simultaneous perturbation stochastic approximation (Spall 1992): two losses to one number."""

import math


def projected_gradient(
    loss_plus: float, loss_minus: float, eps: float, clip: float | None = None
) -> float:
    """g = (loss+ - loss-) / (2 eps), the slope of the loss along z, clipped to +-clip.

    g z estimates the gradient: E[g z] -> grad as eps -> 0, for z of mean 0 and covariance I.

    Args:
        loss_plus, loss_minus: the loss at theta + eps z and at theta - eps z.
        eps: size of the perturbation, above 0.
        clip: largest magnitude, or None.

    Returns:
        g, or NaN where a loss is not finite.

    >>> projected_gradient(1.5, 0.5, eps=0.25)
    2.0
    >>> projected_gradient(1.5, 0.5, eps=0.25, clip=1.0)
    1.0
    """
    if not (math.isfinite(loss_plus) and math.isfinite(loss_minus)):
        return math.nan
    g = (loss_plus - loss_minus) / (2 * eps)
    return g if clip is None else max(-clip, min(clip, g))
