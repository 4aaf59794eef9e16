"""Test loss over passes, backward ones counted."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test loss over passes"
CAPTION = _curves.PASSES + _curves.CAPTION


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(frame, "test_loss", "test loss (nat)", "passes", columns=2)
