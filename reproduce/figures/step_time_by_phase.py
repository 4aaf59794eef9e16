"""Time of a training step by phase."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._stacks import stacks

TITLE = "Time of a training step by phase"
CAPTION = (
    "Medians of each phase, on random data; each method measured alone, in a process of its own."
)
PHASES = {
    "perturb_seconds": "perturb",
    "forward_seconds": "forward",
    "loss_seconds": "loss",
    "backward_seconds": "backward",
    "update_seconds": "update",
    "other_seconds": "the rest",
}


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, precision, batch and number of threads."""
    return stacks(frame, PHASES, 1e-3, "time of a step (ms)")
