"""Test accuracy over passes, of every method that was run."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test accuracy over passes, every method"
CAPTION = _curves.PASSES + _curves.CAPTION


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(frame, "test_accuracy", "test accuracy (%)", "passes", columns=2)
