"""32-bit floating point: torch's own operations and autograd."""

import functools
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import catalogue
from ezo.data import Dataset
from ezo.methods import Hyper
from ezo.optim import ElasticZO
from ezo.precisions import EVALUATION_BATCH, Trainer
from ezo.split import layers

NAMES = ("fp32",)
HYPER = Hyper
FORMS = ("", "lean")  # of the BP part: as by default, as in `ezo.methods.elastic_lean`
LAST_RATE = 0.03  # what the exponential schedule ends at, as a share of the first learning rate


def default(method: str) -> Hyper:
    """The method's own."""
    hyper: Hyper = catalogue.find("method", method).HYPER
    return hyper


def reads(method: str) -> frozenset[str]:
    """As the method's file says."""
    names: frozenset[str] = catalogue.find("method", method).READS
    return names


def check(method: str, hyper: Hyper) -> None:
    """Raises:
    ValueError: a number is not finite, or the schedule unknown; the optimiser checks the rest.
    """
    for name, value in asdict(hyper).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected {name} to be finite, got {value}")
    schedule(hyper.schedule, 0.0)


def schedule(name: str, done: float) -> float:
    """Factor on the learning rates when the fraction ``done`` of the steps is done.

    Raises:
        ValueError: the schedule is unknown.
    """
    if name == "constant":
        return 1.0
    if name == "exponential":
        return LAST_RATE**done
    if name == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    raise ValueError(f"unknown schedule '{name}'; known: exponential, cosine, constant")


def trainer(
    name: str,
    model: nn.Module,
    data: Dataset,
    method: str,
    hyper: Hyper,
    seed: int,
    device: torch.device,
) -> Trainer:
    """Any torch model by any method."""
    return _Trainer(model, data, method, hyper, seed, device)


def weighted(model: nn.Module) -> list[str]:
    """The parametric layers (`ezo.split.layers`)."""
    return [name for name, _ in layers(model)]


def prepare(
    name: str,
    model: nn.Module,
    inputs: list[Tensor],
    bp_layers: int | None,
    form: str,
    loss: Callable[[Any], Tensor] | None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None,
) -> tuple[nn.Module, Callable[[], Any]]:
    """A step of any torch model; by default of cross-entropy, by `ElasticZO`'s own optimiser.

    In the form ``lean`` BP's gradient is that of the last pass, and its optimiser plain SGD.
    """
    if loss is None:
        labels = torch.zeros(len(inputs[0]), dtype=torch.int64, device=inputs[0].device)
        loss = functools.partial(_usual_loss, labels)

    def closure() -> Tensor:
        return loss(model(*inputs))

    if bp_layers is None:
        return model, torch.no_grad()(closure)
    every = bp_layers == len(layers(model))
    if form == "lean":
        bp_optimizer = bp_optimizer or functools.partial(torch.optim.SGD, lr=0.01)
    optimizer = ElasticZO(
        model,
        "all" if every else bp_layers,
        bp_optimizer=bp_optimizer,
        bp_gradient="last" if form == "lean" else "mean",
    )
    return model, lambda: optimizer.step(closure)


def _usual_loss(labels: Tensor, output: Any) -> Tensor:
    """Cross-entropy of (N, classes) with N labels.

    Raises:
        ValueError: the output is of another shape.
    """
    if not isinstance(output, Tensor) or output.dim() != 2 or len(output) != len(labels):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"expected an output of shape ({len(labels)}, classes) for cross-entropy, the usual "
            f"loss, got {got}; give a loss of the output, a scalar"
        )
    return nn.functional.cross_entropy(output, labels)


class _Trainer(Trainer):
    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        method: str,
        hyper: Hyper,
        seed: int,
        device: torch.device,
    ) -> None:
        self.train_x, self.train_y = data.train_x.to(device), data.train_y.to(device)
        self.test_x, self.test_y = data.test_x.to(device), data.test_y.to(device)
        self._augment, self._hyper = data.augment, hyper
        self.model = model.to(device)
        file = catalogue.find("method", method)
        self.optimizer = file.optimizer(method, self.model, hyper, seed)
        for group in self.optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        self._loss = nn.CrossEntropyLoss()

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = self.train_x[chosen]
        if self._augment is not None:
            x = self._augment(x, generator)
        return x, self.train_y[chosen]

    def step(self, x: Tensor, y: Tensor, step: int, steps: int) -> float:
        factor = schedule(self._hyper.schedule, step / steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

        def closure() -> Tensor:
            self.passes += 1
            return self._loss(self.model(x), y)

        self.model.train()
        loss: float = self.optimizer.step(closure).item()
        return loss

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> float:
        self.model.eval()
        loss: float = self._loss(self.model(x), y).item()
        return loss

    def mean_loss(self, losses: float, steps: int, batch_size: int) -> float:
        return losses / steps

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        self.model.eval()
        loss, right, n = 0.0, 0, len(self.test_x)
        for first in range(0, n, EVALUATION_BATCH):
            logits = self.model(self.test_x[first : first + EVALUATION_BATCH])
            labels = self.test_y[first : first + EVALUATION_BATCH]
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
        return 100 * right / n, loss / n
