"""Test accuracy over passes, backward ones counted."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

OPENING = 4
TITLE = "Test accuracy over passes"
CAPTION = (
    _curves.PASSES
    + _curves.CAPTION
    + " Dashed: the frozen controls. What lies 15 points or more below the worst end is not shown."
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(frame, "test_accuracy", "test accuracy (%)", "passes")
