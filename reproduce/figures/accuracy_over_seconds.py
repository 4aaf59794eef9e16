"""Test accuracy over seconds."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Test accuracy over seconds"
CAPTION = (
    "Seconds of training, without evaluation; runs may have shared the machine. " + _curves.CAPTION
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(
        frame, "test_accuracy", "test accuracy (%)", "train_seconds", "training time (s)"
    )
