"""32-bit floating point: torch's own operations and autograd."""

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import methods
from ezo.methods import Hyper
from ezo.precisions import EVALUATION_BATCH, Step
from ezo.ranks import Ranks
from ezo.split import layers as parametric_layers
from ezo.stream import stream

NAMES = ("fp32",)
HYPER = Hyper
default, reads = methods.default, methods.reads
LAST_RATE = 0.03  # what the exponential schedule ends at, as a share of the first learning rate

Loss = Callable[[Any, Any], Tensor]


def check(method: str, hyper: Hyper) -> None:
    """Raises:
    ValueError: a number is not finite, or the schedule unknown; the optimiser checks the rest.
    """
    for name, value in asdict(hyper).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"expected {name} to be finite, got {value}; give a number")
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


def layers(model: nn.Module) -> list[str]:
    """As `ezo.split.layers` finds them."""
    return [name for name, _ in parametric_layers(model)]


def make_step(
    name: str,
    model: nn.Module,
    method: str | None,
    hyper: Hyper,
    seed: int = 0,
    *,
    device: torch.device | None = None,
    loss: Loss | None = None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    ranks: bool | Ranks = False,
    estimator: str = "central",
) -> Step:
    """Any torch model by any method.

    A batch is what the model takes: a tensor, a tuple of arguments or a dict of named ones.
    """
    if device is not None:
        model = model.to(device)
    optimizer = None
    if method:
        optimizer = methods.optimizer(method, model, hyper, seed, bp_optimizer, ranks, estimator)
    examples = optimizer is not None and optimizer.needs_examples
    usual = _CrossEntropy(reduction="none" if examples else "mean")
    return _Step(model, optimizer, hyper.schedule, loss or usual)


class _Step(Step):
    def __init__(self, model: nn.Module, optimizer: Any, schedule: str, loss: Loss) -> None:
        self.model, self.optimizer, self._schedule, self._loss = model, optimizer, schedule, loss
        for group in optimizer.param_groups if optimizer else ():
            group["initial_lr"] = group["lr"]

    @property
    def bp_layers(self) -> int:
        groups = self.optimizer.param_groups if self.optimizer else []
        bp = {id(p) for group in groups if not group.get("zo") for p in group["params"]}
        return sum(any(id(p) in bp for p in own) for _, own in parametric_layers(self.model))

    def calibrate(self, x: Any) -> Any:
        return x

    def encode(self, x: Any) -> Any:
        return x

    def __call__(self, x: Any, y: Any) -> Tensor:
        def closure() -> Tensor:
            self.passes += 1
            return self._loss(_output(self.model, x), y)

        if self.optimizer is None:
            return torch.no_grad()(closure)()
        loss: Tensor = self.optimizer.step(closure)
        return loss

    def stream(self, chunk: int) -> None:
        stream(self.model, chunk)

    def mean_loss(self, losses: Any, steps: int, batch_size: int) -> Any:
        return losses if steps == 1 else losses / steps

    def schedule(self, step: int, steps: int) -> None:
        factor = schedule(self._schedule, step / steps)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        loss, right, n = 0.0, 0, len(x)
        for first in range(0, n, EVALUATION_BATCH):
            logits = self.logits(x[first : first + EVALUATION_BATCH])
            labels = y[first : first + EVALUATION_BATCH]
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(1) == labels).sum())
        return 100 * right / n, loss / n

    @torch.no_grad()
    def logits(self, x: Any) -> Tensor:
        training = self.model.training
        try:
            found: Tensor = self.model.eval()(x)
            return found
        finally:
            self.model.train(training)


def _output(model: nn.Module, x: Any) -> Any:
    if isinstance(x, Tensor):
        return model(x)
    if isinstance(x, dict):
        return model(**x)
    return model(*x) if isinstance(x, tuple) else model(x)


class _CrossEntropy(nn.CrossEntropyLoss):
    """Of an output (N, classes) with N labels, the mean; other shapes are an error that says so."""

    def forward(self, output: Any, labels: Tensor) -> Tensor:
        try:
            return super().forward(output, labels)
        except (AttributeError, TypeError, ValueError, RuntimeError) as error:
            is_tensor = isinstance(output, Tensor)
            if is_tensor and output.dim() == 2 and len(output) == len(labels):
                raise
            raise ValueError(
                f"expected an output of shape ({len(labels)}, classes) for cross-entropy, the "
                f"usual loss, got {tuple(output.shape) if is_tensor else type(output).__name__}; "
                "give a loss of the output, a scalar"
            ) from error
