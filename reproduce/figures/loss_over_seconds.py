"""Test loss over seconds."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test loss over seconds"
CAPTION = (
    "Seconds of training, without evaluation, from the end of the first epoch on. Runs may have "
    "shared the machine, and then took longer. " + _curves.CAPTION
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(
        frame, "test_loss", "test loss (nat)", "train_seconds", "training time (s)"
    )
