"""How long a run takes: a prediction, for the estimate of a preset and of the time left."""

import importlib
from typing import Any

from bench import grid
from ezo.rows import Row
from ezo.train import Run

# Seconds of one thread for a training step of 32 examples by two forward passes, or by BP. For
# LeNet-5 two runs side by side, an epoch of MNIST each on a processor with AVX-512, took 4.5 ms
# (full ZO), 5.3 ms (elastic-2) and 5.2 ms (full BP); an older processor takes up to twice as long.
STEP_SECONDS = {
    "lenet5": 0.0055,
    "pointnet": 0.16,
    "pointnet-bn": 0.16,
    "pointnet-he": 0.04,
    "pointnet-centred": 0.04,
}
# Of these seconds in integers, at most: the same runs took 0.21 to 0.26, and full BP 0.6.
INT8, INT8_FULL_BP = 0.3, 0.6
FURTHER_QUERY = 0.85  # of them again, for each query after a step's first: full ZO's of elastic-2's
TRAIN_EXAMPLES = {"digits": 1442, "mnist": 60_000, "fashion-mnist": 60_000, "shapes": 4000}
EVALUATION = 1.08  # over training alone


def steps(run: Run) -> int:
    """Steps of the whole run."""
    sizes = [n for name, n in TRAIN_EXAMPLES.items() if run.data.startswith(name)]
    examples = run.train_examples or (sizes[0] if sizes else 10_000) - run.held_out
    return run.epochs * (examples // run.batch_size)


def seconds(run: Run) -> float:
    """Predicted seconds of one thread."""
    a_step = STEP_SECONDS.get(run.model, 0.05) * run.batch_size / 32
    if run.precision != "fp32":
        a_step *= INT8_FULL_BP if run.method.startswith("full-bp") else INT8
    a_step *= 1 + FURTHER_QUERY * (getattr(run.hyper, "queries", 1) - 1)
    return steps(run) * a_step * EVALUATION


def share(run: Run, found: list[Row]) -> float:
    """The share of a run's steps that its rows tell of."""
    told = [row.step for row in found if row.step is not None]
    return min(1.0, told[-1] / max(steps(run), 1)) if told else 0.0


def cell_seconds(benchmark: str, case: Any) -> float:
    """Predicted seconds of a measurement."""
    return grid.predicted_seconds(importlib.import_module(f"bench.{benchmark}"), case)


def clock(seconds: float) -> str:
    """A duration as text.

    >>> clock(5000.0)
    '1 h 23 min'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
