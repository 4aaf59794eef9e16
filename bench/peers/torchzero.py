"""torchzero's MeZO, as its documentation builds it, with Gaussian noise like ours."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("torchzero-mezo",)


def step(name: str, model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """Full ZO: two passes, and torchzero's third for the loss that it returns.

    The third would keep what a backward pass needs, and none comes: so without gradients.
    """
    optimizer = _mezo(model, lr=1e-4, eps=1e-3)
    return lambda: optimizer.step(torch.no_grad()(closure))


def make_step(model: nn.Module, lr: float, eps: float, seed: int) -> Callable[[Any], object]:
    """For `ezo.conformance`. `tz.m.MeZO` seeds its own generators and takes no seed."""
    optimizer = _mezo(model, lr, eps)
    return lambda closure: optimizer.step(lambda backward=False: closure())


def _mezo(model: nn.Module, lr: float, eps: float) -> Any:
    import torchzero as tz

    return tz.Optimizer(model.parameters(), tz.m.MeZO(h=eps, distribution="gaussian"), tz.m.LR(lr))
