"""Test accuracy over forward passes."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test accuracy over forward passes"
CAPTION = _curves.PASSES + _curves.CAPTION


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(
        frame, "test_accuracy", "test accuracy (%)", "forward_passes", "forward passes (batches)"
    )
