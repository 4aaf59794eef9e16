"""MNIST and Fashion-MNIST, 70,000 images of 28x28 pixels, also rotated by any angle in degrees."""

import http.client
from pathlib import Path

import torch
from torch import Tensor

from ezo.data._dataset import Dataset
from ezo.data._files import WHERE, bad, data_root, exists, read_idx
from ezo.data._images import mean_and_deviation, rotate
from ezo.data._vision import import_torchvision

NAMES = ("mnist", "fashion-mnist", "mnist-rot<degrees>", "fashion-mnist-rot<degrees>")
ABOUT = {
    "fashion-mnist": "Ten kinds of clothes, in MNIST's form.",
    "mnist-rot<degrees>": "mnist, turned by that angle.",
    "fashion-mnist-rot<degrees>": "fashion-mnist, turned by that angle.",
}
CLASSES = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}  # torchvision's, and the folders
IMAGES = {"train": 60_000, "t10k": 10_000}
BATCH = 1000  # images turned at once


def load(name: str, root: Path | None = None) -> Dataset:
    """Read the files of ``root``/MNIST/raw, or FashionMNIST/raw; torchvision fetches those missing.

    Images (N, 1, 28, 28) in 10 classes, scaled to mean 0 and variance 1 by the training images
    before rotation, so that every angle has one scale. With ``-rot45`` all, those for testing too,
    are turned counter-clockwise by 45 degrees (bilinear, black corners), in integers: the same bits
    on every processor.

    Raises:
        FileNotFoundError: files are missing and can't be downloaded.
        ValueError: a file is truncated, corrupt or not what it should be.
        ModuleNotFoundError: torchvision is needed to download, and not installed.
    """
    base, _, degrees = name.partition("-rot")
    folder = data_root(root) / CLASSES[base] / "raw"
    missing = [path for part in IMAGES for path in _paths(folder, part) if not exists(path)]
    if missing:
        _download(CLASSES[base], data_root(root), missing)
    train_images, train_y = _read(folder, "train")
    test_images, test_y = _read(folder, "t10k")

    counts = torch.bincount(train_images.flatten(), minlength=256)
    grey = torch.arange(256)
    total, squares = int((counts * grey).sum()), int((counts * grey * grey).sum())
    mean, std = mean_and_deviation(total, squares, train_images.numel())
    if std == 0:
        raise bad(_paths(folder, "train")[0], "images", f"{mean:g} in every pixel")

    def scale(images: Tensor) -> Tensor:
        x = images.float()  # (N, 28, 28)
        if int(degrees or 0) % 360:
            for part, turned in zip(images.split(BATCH), x.split(BATCH), strict=True):
                turned.copy_(rotate(part, int(degrees)))
        return x.unsqueeze(1).sub_(mean).div_(std)

    return Dataset(scale(train_images), train_y, scale(test_images), test_y, classes=10)


def _paths(folder: Path, part: str) -> tuple[Path, Path]:
    return folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"


def _read(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    """Images (N, 28, 28) as uint8 and labels (N,) as int64."""
    images_path, labels_path = _paths(folder, part)
    images = read_idx(images_path, (IMAGES[part], 28, 28))
    labels = read_idx(labels_path, (IMAGES[part],))
    if labels.max() > 9:
        first = int((labels > 9).nonzero()[0])
        raise bad(labels_path, "labels 0 to 9", f"{int(labels[first])} at {first}")
    return images, labels.long()


def _download(data: str, root: Path, missing: list[Path]) -> None:
    """Let torchvision fetch, check (MD5) and unpack all files of a data set."""
    try:
        getattr(import_torchvision().datasets, data)(root, download=True)
    # AssertionError: torchvision reads what it finds beside, with its own weak checks; ours,
    # which follow, say what is wrong.
    except (AssertionError, OSError, RuntimeError, http.client.HTTPException) as error:
        if all(map(exists, missing)):
            return
        names = ", ".join(path.name for path in missing)
        raise FileNotFoundError(
            f"expected {names} in {missing[0].parent}, plain or with .gz; they are missing and "
            f"could not be downloaded ({error}); put them there by hand, or {WHERE}"
        ) from error
