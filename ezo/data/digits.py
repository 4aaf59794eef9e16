"""scikit-learn's 1,797 handwritten digits, 8x8 pixels resized to 28x28: needs no download."""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import interpolate

from ezo.data._dataset import Dataset
from ezo.data._files import extra
from ezo.data._vision import rotate

NAMES = ("digits", "digits-rot<degrees>")
ROUNDED = 2.0**-20  # of a grey level, so that processors' last bits agree


def load(name: str, root: Path | None = None) -> Dataset:
    """The digits of the UCI Optical Recognition test set, as they come with scikit-learn.

    Images (N, 1, 28, 28) in 10 classes, scaled to mean 0 and variance 1 by the training images
    before rotation; with ``-rot30`` all are turned counter-clockwise by 30 degrees. The split is
    fixed: every fifth image of each class is for testing, 355 of 1,797.

    Raises:
        ModuleNotFoundError: scikit-learn, or torchvision to rotate, is not installed.
    """
    digits = extra("sklearn.datasets").load_digits()
    labels = digits.target.astype(np.int64)
    testing = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        testing[np.flatnonzero(labels == label)[4::5]] = True
    small = torch.from_numpy(digits.images).unsqueeze(1)  # (N, 1, 8, 8), float64, 0 to 16
    images = interpolate(small, size=(28, 28), mode="bilinear", align_corners=False)
    train_x = images[~testing]
    # By numpy: the same bits on any number of threads.
    mean, std = float(train_x.numpy().mean()), float(train_x.numpy().std())
    degrees = int(name.partition("-rot")[2] or 0)
    if degrees:
        images = rotate(images, degrees).div_(ROUNDED).round_().mul_(ROUNDED)
    x, y = ((images - mean) / std).float(), torch.from_numpy(labels)
    return Dataset(x[~testing], y[~testing], x[testing], y[testing], classes=10)
