"""Data of the user's: a folder of images, a .npz of arrays, a .csv of numbers.

A test set of its own is used as it is; else every fifth example of each class is for testing.
``FOLDER@64`` cuts and scales its images to 64 x 64 pixels.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ezo.data._dataset import Dataset, Scale
from ezo.data._formats import Array, Examples, Parts, bad, read

TESTING = 5  # of so many examples of a class, one is for testing


def answers(name: str) -> bool:
    """Whether a name is a path: has a slash, ends as a file of ours does, or is a folder here."""
    path, _ = _parsed(name)
    return "/" in name or path.suffix.lower() in (".npz", ".csv") or (name != "" and path.is_dir())


def load(name: str, root: Path | None = None) -> Dataset:
    """What lies there: classes and shape are found, the scale is the training examples'.

    Of images and points each channel has mean 0 and variance 1 over all pixels or points, of rows
    each column.

    Raises:
        ValueError, OSError, ModuleNotFoundError: as `ezo.data._formats.read`; or it is no training
            set: fewer than two classes, classes to test that aren't trained, nothing to test on.
    """
    path, side = _parsed(name)
    parts = read(path, side)
    train, test = _divided(path, parts)
    labels = ordered({*(train.y or [])})
    if len(labels) < 2:
        got = f"{len(labels)}: {', '.join(labels)}" if labels else "no labels"
        raise bad(path, "two classes or more to train on", got, "add labelled examples")
    scale = Scale.of(train.x)
    train_y, test_y = (numbered(path, part.y or [], labels) for part in (train, test))
    train_x, test_x = scale(train.x), scale(test.x)
    return Dataset(train_x, train_y, test_x, test_y, len(labels), labels=labels, scale=scale)


class Given(NamedTuple):
    """Examples to predict: scaled as in training, labels as numbers if there are any, names."""

    x: Tensor
    y: Tensor | None
    names: list[str]


def given(name: str, scale: Scale, labels: tuple[str, ...], shape: tuple[int, ...]) -> Given:
    """The test set that lies there, or all examples, as a run was trained on such.

    Args:
        scale, labels, shape: of the run's `Dataset`; one example's shape.

    Raises:
        ValueError, OSError, ModuleNotFoundError: as `load`; or examples have another shape.
    """
    path, side = _parsed(name)
    parts = read(path, side, shape[0] if len(shape) == 1 else None)
    found = parts.get("test") or parts.get("all") or parts["train"]
    if found.x.shape[1:] != shape:
        got = f"{found.x.shape[1:]}"
        fix = "give examples as those of the training"
        raise bad(path, f"examples of shape {shape}, as the run was trained on", got, fix)
    y = None if found.y is None else numbered(path, found.y, labels)
    return Given(scale(found.x), y, list(found.names))


def ordered(labels: set[str]) -> tuple[str, ...]:
    """Classes in the order of their numbers; by value where all are whole numbers."""
    whole = all(label.lstrip("-").isdigit() for label in labels)
    return tuple(sorted(labels, key=int if whole else str))


def numbered(path: Path, y: list[str], labels: tuple[str, ...]) -> Tensor:
    """Labels as int64, (N,)."""
    number = {label: i for i, label in enumerate(labels)}
    if strange := sorted({*y} - {*labels}):
        got = ", ".join(strange[:5])
        fix = "train on examples of each class"
        raise bad(path, f"classes of the training, {', '.join(labels)}", got, fix)
    return torch.tensor([number[label] for label in y], dtype=torch.int64)


def _parsed(name: str) -> tuple[Path, int | None]:
    before, at, after = name.rpartition("@")
    if at and after.isdigit() and 1 <= int(after) <= 4096:
        return Path(before), int(after)
    return Path(name), None


def _divided(path: Path, parts: Parts) -> tuple[Examples, Examples]:
    if missing := [part for part, examples in parts.items() if examples.y is None]:
        raise bad(path, "labels to train by", f"none of {missing[0]}", "add y, or a folder a class")
    if "test" in parts and "train" not in parts:
        raise bad(path, "examples to train on", "a test set alone", "add train_x and train_y")
    every = parts.get("all") or parts["train"]
    if "test" in parts:
        if parts["test"].x.shape[1:] != every.x.shape[1:]:
            got = f"{every.x.shape[1:]} and {parts['test'].x.shape[1:]}"
            raise bad(path, "examples of one shape to train and test on", got, "reshape them")
        return every, parts["test"]
    y = np.array(every.y)
    testing = np.zeros(len(y), dtype=bool)
    for label in {*every.y} if every.y else ():
        testing[np.flatnonzero(y == label)[TESTING - 1 :: TESTING]] = True
    if not testing.any():
        got = f"{len(y)} examples"
        raise bad(path, f"{TESTING} examples of a class, one to test on", got, "add a test set")
    return _chosen(every, ~testing), _chosen(every, testing)


def _chosen(of: Examples, which: Array) -> Examples:
    places = np.flatnonzero(which).tolist()
    y = None if of.y is None else [of.y[i] for i in places]
    return Examples(of.x[which], y, [of.names[i] for i in places])
