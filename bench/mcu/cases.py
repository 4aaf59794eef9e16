"""Networks, methods and data that the exported C is measured on."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ezo import catalogue, export
from ezo.data import digits
from ezo.export.arena import Arena
from ezo.export.write import digest
from ezo.int8 import ElasticZO, Int8Tensor, Loss, from_float, quantize
from ezo.methods import Parts
from ezo.models import lenet5
from ezo.precisions.int8 import Int8Hyper

POOL = 64  # examples
MODELS = {
    "lenet5": lambda: lenet5.build("lenet5"),
    "mlp": lambda: nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(784, 10)),
    ),
}
PIXELS = {"lenet5": slice(None), "mlp": slice(2, 26, 3), "cnn": slice(0, 28, 2)}  # rows, columns


@dataclass(frozen=True)
class Case:
    """Attributes:
    model: a name of `MODELS`, on the pixels of `PIXELS`.
    method, batch, fraction: of the training; the other hyperparameters are the default ones.
    ram: bytes of the part, or None.
    """

    model: str
    method: str
    batch: int
    fraction: bool = True
    ram: int | None = None

    @property
    def name(self) -> str:
        fraction = "8" if self.fraction else "0"
        return f"{self.model}-{self.method}-batch{self.batch}-fraction{fraction}"


class Problem:
    """A case's network, optimiser and examples in Python."""

    def __init__(self, case: Case) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = MODELS[case.model]()
        data = digits.load("digits", None)
        images = quantize(data.train_x[:POOL])
        x = images.m[:, :, PIXELS[case.model], PIXELS[case.model]]
        x = x.flatten(1) if case.model == "mlp" else x
        self.case, self.x, self.y = case, Int8Tensor(x.contiguous(), images.e), data.train_y[:POOL]
        hyper = Int8Hyper()
        parts: Parts = catalogue.find("method", case.method).parts(case.method)
        self.network = from_float(model, headroom=hyper.r_max)
        self.optimizer = ElasticZO(
            self.network,
            parts.bp,
            zo=parts.zo,
            rate=hyper.rate,
            mu=hyper.mu,
            magnitude=hyper.magnitude,
            largest_difference=hyper.largest_difference,
            fraction=case.fraction,
            seed=7,
        )
        self.steps = 0

    def write(self, folder: Path) -> Arena:
        """The case as C."""
        given: dict[str, Any] = {"x": self.x, "batch": self.case.batch, "ram": self.case.ram}
        return export.write(self.network, self.optimizer, out=folder, **given)

    def train(self, steps: int) -> int:
        """Python's steps; returns the digest."""
        for _ in range(steps):
            first = self.steps * self.case.batch
            chosen = [(first + j) % POOL for j in range(self.case.batch)]
            x, y = Int8Tensor(self.x.m[chosen], self.x.e), self.y[chosen]
            self.optimizer.step(lambda x=x, y=y: Loss(self.network(x), y))  # type: ignore[misc]
            self.steps += 1
        return digest(self.optimizer)

    @property
    def rates(self) -> tuple[int, int]:
        """(rate, mu)."""
        hyper = Int8Hyper()
        return hyper.rate, hyper.mu

    def labels(self) -> Tensor:
        return self.y.to(torch.uint8)
