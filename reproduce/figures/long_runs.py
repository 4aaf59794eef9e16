"""The experiment long: many passes, against the same full BP."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "More queries a step, for more epochs"
CAPTION = (
    "The experiment long: elastic-2 with several queries a step, and full-bp, for as many epochs. "
    + _curves.CAPTION
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(
        frame, "test_accuracy", "test accuracy (%)", "epoch", "training (epochs)", "long"
    )
