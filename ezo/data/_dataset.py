"""What every data set gives: tensors ready to train on, and a checksum of what they are."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes:
        train_x, test_x: float32, (N, C, H, W) images, of mean 0 and variance 1 over the training
            set, or (N, P, 3) clouds of P points.
        train_y, test_y: int64 labels in [0, classes), (N,).
        augment: ``augment(x, generator) -> x``, applied to each training batch where not None;
            ``generator`` is a CPU ``torch.Generator``, x and the result stay on x's device.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    augment: Augment | None = None

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the four tensors' bytes, hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
