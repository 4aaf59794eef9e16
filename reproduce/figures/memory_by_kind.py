"""Peak memory of a training step by what holds it."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._stacks import stacks

TITLE = "Peak memory by kind"
CAPTION = (
    "Exact tensor bytes alive at the peak of a step, by what they are for; the whole bar is the "
    "peak. Temporaries are what fits no other kind."
)
KINDS = {
    "bytes_parameters": "parameters",
    "bytes_activations": "activations",
    "bytes_temporaries": "temporaries",
    "bytes_gradients": "gradients",
    "bytes_optimizer": "optimiser state",
    "bytes_scratch": "scratch",
    "bytes_batch": "batch",
}


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, precision and batch."""
    return stacks(frame, KINDS, 1e6, "tensor bytes at the peak (MB)")
