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
    + "Mean over seeds; the band of full-zo, elastic-2 and full-bp is its 95 % Student interval. "
    "Dashed: the frozen controls. The axis begins 15 points below the least accurate end. A "
    "further figure has every method, with its band."
)
BANDS = ("full-zo", "elastic-2", "full-bp")


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision, of what the abstract speaks of."""
    how = "test_accuracy", "test accuracy (%)", "passes"
    return _curves.curves(frame, *how, methods=METHODS, bands=BANDS)
