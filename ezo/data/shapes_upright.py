"""Clouds on 16 families of solids that stand upright, generated: needs no download."""

import math
from pathlib import Path

import torch
from torch import Tensor

from ezo.catalogue import number
from ezo.data import shapes
from ezo.data._dataset import Dataset
from ezo.data._points import Float64, jitter, normalise, snapped

NAMES = ("shapes-upright", "shapes-upright-<points>")
ABOUT = {
    "shapes-upright-<points>": "shapes-upright with so many points a cloud.",
}
SPACING = 2.0**-12  # of the grid that coordinates lie on
CIRCLE = 2 * math.pi  # radians; the largest angle that a cloud is turned by


def load(name: str, root: Path | None = None) -> Dataset:
    """Sample 250 training and 64 test clouds of each of `shapes.FAMILIES`, 5,024 in all.

    Made as `shapes` are, but every solid stands on its base and is turned about the vertical (z)
    axis alone, by any angle, as ModelNet40's are. Coordinates are computed in float64 and rounded
    to multiples of 2^-12, far coarser than what processors differ by: the same bits on all.

    Args:
        name: ``shapes-upright`` for 1,024 points a cloud, ``shapes-upright-256`` for 256.
        root: not used.

    Returns:
        Clouds (N, P, 3), shuffled, in 16 classes, of centroid 0 and radius 1 up to the rounding.
        ``augment`` turns them about the vertical axis by any angle, and jitters them.

    Raises:
        ValueError: clouds of no points are asked for.
    """
    points = number(name) if name != "shapes-upright" else shapes.POINTS
    if points < 2:
        raise ValueError(
            f"expected at least 2 points in a cloud, got '{name}'; try shapes-upright-256"
        )
    generator = torch.Generator().manual_seed(0)
    with Float64():
        train_x, train_y = shapes.sample(shapes.TRAIN, points, generator, _upright)
        test_x, test_y = shapes.sample(shapes.TEST, points, generator, _upright)
    return Dataset(train_x, train_y, test_x, test_y, len(shapes.FAMILIES), augment=augment)


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn each cloud of a batch about the vertical axis by any angle, and jitter its points.

    The jitter is normal noise of standard deviation 0.01 on each coordinate, clipped at 0.05.

    Args:
        x: (N, P, 3), of about unit radius, on any device; left as it is.
        generator: on the CPU, so that all devices get the same numbers.

    Returns:
        (N, P, 3) on x's device, on the grid.
    """
    return snapped(_turned_and_jittered(x, generator), SPACING)


def _upright(cloud: Tensor, generator: torch.Generator) -> Tensor:
    return snapped(normalise(_turned_and_jittered(normalise(cloud), generator)), SPACING)


def _turned_and_jittered(x: Tensor, generator: torch.Generator) -> Tensor:
    with Float64():
        angle = CIRCLE * torch.rand(len(x), 1, generator=generator)
        noise = jitter(x.shape, generator)
    cos, sin = angle.cos().to(x.device), angle.sin().to(x.device)
    a, b, z = x.double().unbind(2)  # (N, P)
    return torch.stack([cos * a - sin * b, sin * a + cos * b, z], 2) + noise.to(x.device)
