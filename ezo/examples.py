"""The examples of a run, as its steps take them, and the seeds of what it draws about them."""

import hashlib

import torch
from torch import Tensor

from ezo.data import Dataset
from ezo.precisions import EVALUATION_BATCH, Step


class Examples:
    """A data set on a device, as a precision's steps take it.

    What augmentation adds, in floating point, is encoded batch by batch.
    """

    def __init__(self, data: Dataset, step: Step, device: torch.device) -> None:
        self._augment, self._encode = data.augment, step.encode
        encoded = step.calibrate(data.train_x)
        self.train_x = (encoded if data.augment is None else data.train_x).to(device)
        self.seen = encoded[:EVALUATION_BATCH].clone().to(device)  # to calibrate by
        self.test_x = step.encode(data.test_x).to(device)
        self.train_y, self.test_y = data.train_y.to(device), data.test_y.to(device)

    def __len__(self) -> int:
        return len(self.train_y)

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Training examples by their indices: the step's input, augmented, and the labels."""
        x, y = self.train_x[chosen], self.train_y[chosen]
        return (x if self._augment is None else self._encode(self._augment(x, generator))), y


def seed_of(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1


def generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed_of(*numbers))
