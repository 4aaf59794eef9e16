"""What every data set gives: tensors ready to train on, and a checksum of what they are."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Augment = Callable[[Tensor, torch.Generator], Tensor]


@dataclass(frozen=True)
class Scale:
    """How examples of the user's become numbers of mean 0 and variance 1.

    Attributes:
        mean, std: of each channel, coordinate or column, (C,).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of(cls, x: "np.ndarray[Any, Any]") -> "Scale":
        """That of examples (N, C, H, W), (N, P, C) or (N, C); what never changes stays 0."""
        each = np.moveaxis(x, 1, -1) if x.ndim == 4 else x
        each = each.reshape(-1, each.shape[-1]).astype(np.float64)
        mean, std = each.mean(0), each.std(0)
        return cls(tuple(mean.tolist()), tuple(np.where(std > 0, std, 1.0).tolist()))

    def __call__(self, x: "np.ndarray[Any, Any]") -> Tensor:
        """Examples, scaled; float32."""
        shape = (-1, 1, 1) if x.ndim == 4 else (-1,)
        mean, std = (np.array(of, np.float64).reshape(shape) for of in (self.mean, self.std))
        return torch.from_numpy(((x - mean) / std).astype(np.float32))


@dataclass(frozen=True)
class Dataset:
    """A classification data set in memory.

    Attributes:
        train_x, test_x: float32, (N, C, H, W) images, of mean 0 and variance 1 over the training
            set, (N, P, 3) clouds of P points, or (N, F) rows of numbers.
        train_y, test_y: int64 labels in [0, classes), (N,).
        augment: ``augment(x, generator) -> x``, applied to each training batch where not None;
            ``generator`` is a CPU ``torch.Generator``, x and the result stay on x's device.
        labels: names of the classes, where they have names.
        scale: what scaled the user's own examples, to scale others alike.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int
    augment: Augment | None = None
    labels: tuple[str, ...] = ()
    scale: Scale | None = None

    @property
    def kind(self) -> str:
        """``image``, ``points`` or ``features``."""
        return {4: "image", 3: "points", 2: "features"}[self.train_x.dim()]

    @property
    def channels(self) -> int:
        """Of an image, a point or a row."""
        return self.train_x.shape[1 if self.kind == "image" else -1]

    @property
    def size(self) -> tuple[int, ...] | None:
        """(height, width) of images."""
        return tuple(self.train_x.shape[2:]) if self.kind == "image" else None

    @functools.cached_property
    def checksum(self) -> str:
        """SHA-256 of the four tensors' bytes, hexadecimal."""
        digest = hashlib.sha256()
        for tensor in (self.train_x, self.train_y, self.test_x, self.test_y):
            digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()
