"""Test accuracy and loss by epoch of short training runs: an indication, never a verdict.

Runs may go side by side, so that their seconds say nothing; `bench.time` measures those.
"""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import torch

from bench.grid import FLOPS_PER_SECOND, START_SECONDS, flops
from bench.workload import Workload
from ezo import catalogue
from ezo.rows import Row
from ezo.train import Run, load, train

METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "full-bp")
DATA = {"image": "digits", "points": "shapes-256"}
EPOCHS = 5
SIDE_BY_SIDE = True
SMOKE = {"epochs": 1}


@dataclass(frozen=True)
class Trial(Workload):
    """A training run of `EPOCHS` epochs from seed 0."""

    data: str = ""

    @property
    def name(self) -> str:
        return f"{super().name}-{self.data}"

    @property
    def run(self) -> Run:
        how: dict[str, Any] = {
            "precision": self.precision,
            "epochs": EPOCHS,
            "batch_size": self.batch_size,
        }
        return Run(self.model, self.data, self.method, **how)


def cases(model: str, method: str, batch_size: int) -> list[Trial]:
    """A method on a model, on data that needs no download."""
    return [Trial(model, method, batch_size, data=DATA[catalogue.find("model", model).INPUT])]


def measure(case: Trial, epochs: int = EPOCHS) -> list[Row]:
    """The rows of the training run (`ezo.train.train`), but for its seconds."""
    torch.set_num_threads(case.threads)
    measured = train(dataclasses.replace(case.run, epochs=epochs), device=case.device)
    return [row for row in measured if row.unit != "s"]


def seconds(case: Trial) -> float:
    """About how long a trial takes."""
    points = 256 if case.data.endswith("-256") else 1024
    step = 4 * flops(dataclasses.replace(case, points=points))
    examples = _examples(dataclasses.replace(case.run, method="full-zo", batch_size=1))
    steps = EPOCHS * examples // case.batch_size
    return START_SECONDS + steps * step / FLOPS_PER_SECOND


@functools.cache
def _examples(run: Run) -> int:
    return len(load(run).train_x)
