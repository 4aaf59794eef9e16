"""Names of the members of each kind, for tests of all of them."""

import re

import pytest
import torch
from torch import Tensor, nn

from ezo import catalogue
from ezo.train import Run, build

NUMBERS = {"<points>": "256", "<degrees>": "45", "<k>": "1"}


def concrete(name: str) -> str:
    """A name that a caller could write: placeholders filled in."""
    return re.sub(r"<\w+>", lambda found: NUMBERS.get(found[0], "2"), name)


def examples(kind: str) -> list[str]:
    return [concrete(name) for name in catalogue.names(kind)]


every_model = pytest.mark.parametrize("name", examples("model"))


def inputs(name: str, channels: int, n: int = 4) -> Tensor:
    shape = {"image": (n, channels, 28, 28), "points": (n, 32, channels)}
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape[catalogue.find("model", name).INPUT], generator=generator)


def channels_of(name: str) -> int:
    return {"image": 1, "points": 3}[catalogue.find("model", name).INPUT]


def built(name: str, classes: int = 10, channels: int | None = None, seed: int = 0) -> nn.Module:
    run = Run(name, "digits", "full-zo", seed=seed)
    return build(run, classes, channels_of(name) if channels is None else channels)


DEEPEST = {"tiny": 3, "lenet5": 5, "pointnet-bn": 8}


def concrete_methods(deepest: int) -> list[str]:
    """All methods, those with a k with every k from 1 to all layers."""
    ks = range(1, deepest + 1)
    return [
        name
        for known in catalogue.names("method")
        for name in dict.fromkeys(known.replace("<k>", str(k)) for k in ks)
    ]
