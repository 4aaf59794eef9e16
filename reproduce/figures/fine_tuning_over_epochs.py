"""Fine-tuning on rotated data: test accuracy from the given weights on."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures import _curves

TITLE = "Fine-tuning on rotated data, epoch by epoch"
CAPTION = (
    "At 0 epochs: the weights that full BP found on the unrotated data, before fine-tuning. "
    + _curves.CAPTION
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    return _curves.curves(frame, "test_accuracy", "test accuracy (%)", "epoch", "fine-tuning", 2)
