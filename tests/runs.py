"""Short runs for tests, and what compares their rows."""

from dataclasses import replace

import pytest

from ezo.rows import Row
from ezo.train import Run

# tiny-images has 44 training examples: 5 steps of 8 an epoch, 4 examples wait for the next.
RUN = Run("tiny", "tiny-images", "elastic-1", epochs=2, batch_size=8)
LENET = Run("lenet5", "digits", "elastic-1", epochs=1, batch_size=16, train_examples=64)
METHODS = ["elastic-1", "full-zo", "full-bp", "full-bp-checkpoint"]
RUNS = [replace(RUN, method=method) for method in METHODS]
RUNS += [
    replace(RUN, model="plain", method=method, precision=precision)
    for method, precision in (
        ("elastic-1", "int8"),
        ("full-zo", "int8"),
        ("full-bp", "int8"),
        ("tail-only-1", "int8"),
        ("elastic-1", "int8*"),
    )
]
every_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.method}-{run.precision}")


def timeless(measured: list[Row]) -> list[Row]:
    """Rows without what may differ between two runs of the same: time."""
    return [replace(r, value=0.0) if r.metric == "train_seconds" else r for r in measured]


def values(measured: list[Row], metric: str) -> list[float]:
    found = [row.value for row in measured if row.metric == metric]
    assert None not in found
    return found  # type: ignore[return-value]
