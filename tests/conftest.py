"""What all tests share: one thread, and a way to add members of a kind for one test."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ezo.catalogue import KINDS

TINY_MODEL = '''"""A tiny model of three layers with batch norm and dropout."""

from torch import nn

NAMES = ("tiny",)
INPUT = "image"


def build(name, classes=3, channels=1):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16 * channels, 12, bias=False), nn.BatchNorm1d(12), nn.ReLU(),
        nn.Dropout(0.3), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes),
    )
'''

PLAIN_MODEL = '''"""The tiny model without batch norm and dropout, which integers train without."""

from torch import nn

NAMES = ("plain",)
INPUT = "image"


def build(name, classes=3, channels=1):
    return nn.Sequential(
        nn.Conv2d(channels, 12, 4, bias=False), nn.Flatten(), nn.ReLU(),
        nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, classes),
    )
'''

TINY_DATA = '''"""Noisy images of 4 x 4 pixels in three classes: 44 to train on, 20 to test."""

import torch

from ezo.data import Dataset

NAMES = ("tiny-images",)


def load(name, root=None):
    generator = torch.Generator().manual_seed(7)
    y = torch.arange(64) % 3
    centres = torch.randn(3, 1, 4, 4, generator=generator)
    x = (centres[y] + torch.randn(64, 1, 4, 4, generator=generator)) / 2**0.5
    return Dataset(x[:44], y[:44], x[44:], y[44:], classes=3, augment=augment)


def augment(x, generator):
    return x + 0.1 * torch.randn(x.shape, generator=generator)
'''


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """One CPU thread, as the project's runs have; a test that sets another number gets its way."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def drop_in(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str, str, str], Path]]:
    """``drop_in(kind, stem, source)`` adds the file of a member, for the length of a test."""
    added = []

    def add(kind: str, stem: str, source: str) -> Path:
        package = importlib.import_module(KINDS[kind])
        folder = tmp_path_factory.mktemp(f"more_{kind}")
        (folder / f"{stem}.py").write_text(source, encoding="utf-8")
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
        added.append((package, stem))
        return folder / f"{stem}.py"

    yield add
    for package, stem in added:
        sys.modules.pop(f"{package.__name__}.{stem}", None)
        vars(package).pop(stem, None)


@pytest.fixture
def tiny(drop_in: Callable[[str, str, str], Path]) -> None:
    """Adds the models ``tiny`` and ``plain`` and the data set ``tiny-images``."""
    drop_in("model", "tiny", TINY_MODEL)
    drop_in("model", "plain", PLAIN_MODEL)
    drop_in("data", "tiny_images", TINY_DATA)
