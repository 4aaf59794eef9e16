"""Test loss over epochs."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test loss over epochs"
CAPTION = _curves.CAPTION


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(frame, "test_loss", "test loss (nat)", "epoch", "training (epochs)")
