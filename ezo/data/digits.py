"""scikit-learn's 1,797 handwritten digits, 8x8 pixels resized to 28x28: needs no download."""

from pathlib import Path

import numpy as np
import torch

from ezo.data._dataset import Dataset
from ezo.data._files import extra
from ezo.data._images import enlarge, mean_and_deviation, rotate

NAMES = ("digits", "digits-rot<degrees>")
ABOUT = {
    "digits-rot<degrees>": "digits, turned by that angle.",
}
SIDE = 28  # pixels


def load(name: str, root: Path | None = None) -> Dataset:
    """The digits of the UCI Optical Recognition test set, as they come with scikit-learn.

    Images (N, 1, 28, 28) in 10 classes, scaled to mean 0 and variance 1 by the training images
    before rotation; with ``-rot30`` all are turned counter-clockwise by 30 degrees. The split is
    fixed: every fifth image of each class is for testing, 355 of 1,797. Computed in integers up to
    the scaling: the same bits on every processor.

    Raises:
        ModuleNotFoundError: scikit-learn is not installed.
    """
    digits = extra("sklearn.datasets").load_digits()
    labels = digits.target.astype(np.int64)
    testing = np.zeros(len(labels), dtype=bool)
    for label in range(10):
        testing[np.flatnonzero(labels == label)[4::5]] = True
    small = torch.from_numpy(digits.images.astype(np.int64))  # (N, 8, 8), 0 to 16
    images = enlarge(small, SIDE)
    seen = images[~testing].numpy()
    mean, std = mean_and_deviation(int(seen.sum()), int((seen * seen).sum()), seen.size)
    degrees = int(name.partition("-rot")[2] or 0)
    grey = rotate(images, degrees).unsqueeze(1)
    x, y = ((grey - mean) / std).float(), torch.from_numpy(labels)
    return Dataset(x[~testing], y[~testing], x[testing], y[testing], classes=10)
