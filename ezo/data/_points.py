"""Clouds of points: rotation, scale and augmentation."""

import math

import torch
from torch import Tensor
from torch.nn.functional import normalize

JITTER = 0.01  # standard deviation of noise on coordinates, of clouds of radius 1
LARGEST_JITTER = 0.05
LARGEST_ANGLE = math.radians(45)
LARGEST_SHIFT = 0.1


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shift and jitter each cloud of a batch (N, P, 3), of about unit radius, on any device.

    A rotation about a random axis by an angle uniform in 0 to 45 degrees, a shift uniform in
    -0.1 to 0.1 along each axis, and on each coordinate normal noise of standard deviation 0.01,
    clipped at 0.05. The generator is on the CPU, so that all devices get the same numbers.
    """
    n = len(x)
    turn = turns(n, LARGEST_ANGLE, generator)
    shift = (torch.rand(n, 1, 3, generator=generator) * 2 - 1) * LARGEST_SHIFT
    noise = jitter(x.shape, generator)
    return x @ turn.to(x).mT + shift.to(x) + noise.to(x)


def jitter(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Clipped normal noise for clouds of radius 1, float32 on the CPU."""
    noise = torch.randn(shape, generator=generator).mul_(JITTER)
    return noise.clamp_(-LARGEST_JITTER, LARGEST_JITTER)


def normalise(x: Tensor) -> Tensor:
    """Move the centroid of each cloud (N, P, 3) to 0 and scale its farthest point to radius 1."""
    x = x - x.mean(1, keepdim=True)
    return x / x.norm(dim=2).amax(1)[:, None, None]


def turns(n: int, largest: float, generator: torch.Generator) -> Tensor:
    """Rotations about random axes by angles uniform in 0 to ``largest`` radians: (n, 3, 3)."""
    axis = normalize(torch.randn(n, 3, generator=generator), dim=1)
    half = torch.rand(n, 1, generator=generator) * (largest / 2)
    w, x, y, z = torch.cat([half.cos(), half.sin() * axis], 1).unbind(1)  # unit quaternions
    first = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    second = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    third = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)
    return torch.stack([*first, *second, *third], 1).reshape(n, 3, 3)
