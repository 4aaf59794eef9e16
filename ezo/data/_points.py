"""Clouds of points: rotation, scale and augmentation."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode

JITTER = 0.01  # standard deviation of noise on coordinates, of clouds of radius 1
LARGEST_JITTER = 0.05
LARGEST_ANGLE = math.radians(45)
LARGEST_SHIFT = 0.1
SPACING = 2.0**-18  # of the grid that coordinates lie on, which float32 holds exactly


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, shift and jitter each cloud of a batch (N, P, 3), of about unit radius, on any device.

    A rotation about a random axis by an angle uniform in 0 to 45 degrees, a shift uniform in
    -0.1 to 0.1 along each axis, and on each coordinate normal noise of standard deviation 0.01,
    clipped at 0.05. The generator is on the CPU; computed in float64 and rounded to the grid, so
    that all devices and processors get the same numbers.
    """
    n = len(x)
    with Float64():
        turn = turns(n, LARGEST_ANGLE, generator)
        shift = (torch.rand(n, 1, 3, generator=generator) * 2 - 1) * LARGEST_SHIFT
        moved = shift + jitter(x.shape, generator)
    return snapped(x.double() @ turn.to(x.device).mT + moved.to(x.device))


def jitter(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Clipped normal noise for clouds of radius 1, on the CPU."""
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


def snapped(x: Tensor, spacing: float = SPACING) -> Tensor:
    """Coordinates rounded to a grid: far coarser than what processors' float64 differ by."""
    return ((x / spacing).round() * spacing).float()


class Float64(TorchFunctionMode):
    """Within, and in this thread alone, new tensors of real numbers are float64."""

    REAL = (torch.rand, torch.randn, torch.empty, torch.linspace, torch.arange, torch.tensor)

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        default = {"dtype": torch.float64} if func in self.REAL else {}
        return func(*args, **{**default, **(kwargs or {})})
