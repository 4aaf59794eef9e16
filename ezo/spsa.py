"""Simultaneous perturbation stochastic approximation (Spall 1992): the slope along the noise."""

import math
from typing import Any

from torch import Tensor


def slope(change: Any, eps: Any, clip: Any = None) -> Any:
    """g = change / (2 eps), the slope of the loss along z, clipped to +-clip.

    g z estimates the gradient: E[g z] -> grad as eps -> 0, for z of mean 0 and covariance I. The
    change is the loss's over a span of 2 eps z (`ezo.estimators`), as from theta - eps z to
    theta + eps z; where it is not finite, g is NaN. Of a tensor it is a tensor, which stays on its
    device, and where that is not finite the caller's affair.

    >>> slope(1.0, eps=0.25), slope(1.0, eps=0.25, clip=1.0)
    (2.0, 1.0)
    """
    if isinstance(change, Tensor):
        g = change / (2 * eps)
        return g if clip is None else g.clamp(-clip, clip)
    if not math.isfinite(change):
        return math.nan
    g = change / (2 * eps)
    return g if clip is None else max(-clip, min(clip, g))
