"""Central differences: a pass at either side of theta, the paper's."""

from collections.abc import Mapping
from typing import Any

NAMES = ("central",)
POINTS = (1, -1)


def difference(losses: Mapping[int, Any]) -> Any:
    """loss(theta + e) - loss(theta - e), exact to the order of e^2.

    >>> difference({1: 1.5, -1: 0.5})
    1.0
    """
    return losses[1] - losses[-1]
