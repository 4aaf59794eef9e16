"""Test accuracy over passes, backward ones counted."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

OPENING = 4
METHODS = (
    *("full-zo", "full-zo-node", "elastic-1", "tail-only-1", "elastic-2", "tail-only-2"),
    "full-bp",
)
TITLE = "Test accuracy over passes"
CAPTION = (
    _curves.PASSES
    + _curves.CAPTION
    + " Dashed: the frozen controls. What lies 15 points or more below the worst end is not shown. "
    "A further figure has every method."
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision, of what the abstract speaks of."""
    how = "test_accuracy", "test accuracy (%)", "passes"
    return _curves.curves(frame, *how, methods=METHODS)
