"""What a query of a step found."""

import math
from typing import NamedTuple


class Estimate(NamedTuple):
    """What one query found: the losses at theta + eps z, theta - eps z and theta.

    None where the estimator has no pass there.
    """

    loss_plus: float | None = None
    loss_minus: float | None = None
    loss: float | None = None

    @property
    def finite(self) -> bool:
        return all(math.isfinite(loss) for loss in self if loss is not None)
