"""What the training loop asks of a precision."""

import abc
from typing import Any

import torch
from torch import Tensor, nn

EVALUATION_BATCH = 256  # examples


class Trainer(abc.ABC):
    """A model that trains on batches of a data set.

    Attributes:
        model, optimizer: their state dicts are all that a later step depends on.
        train_x, train_y, test_x, test_y: the data, on the device.
        passes: forward passes of a batch by `step`, so far.
    """

    model: nn.Module
    optimizer: Any
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    passes: int = 0

    @abc.abstractmethod
    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Any, Tensor]:
        """Training examples by their indices: the model's input, augmented, and the labels."""

    @abc.abstractmethod
    def step(self, x: Any, y: Tensor, step: int, steps: int) -> float:
        """One step, the ``step``-th of ``steps`` from 0; returns the loss, which sums up."""

    @abc.abstractmethod
    def loss(self, x: Any, y: Tensor) -> float:
        """Mean loss of a batch in nats, by one pass; training is not affected."""

    @abc.abstractmethod
    def mean_loss(self, losses: float, steps: int, batch_size: int) -> float:
        """The sum of losses that ``steps`` steps returned, as a mean in nats."""

    @abc.abstractmethod
    def evaluate(self) -> tuple[float, float]:
        """Accuracy (%) and mean loss (nats) over the test examples; training is not affected."""
