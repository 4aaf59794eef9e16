"""TorchOpt's zeroth-order estimator, antithetic, with Gaussian noise; its gradient goes to SGD."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

NAMES = ("torchopt-zero-order",)


def step(name: str, model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """Full ZO: the loss at theta, and at both sides of it."""
    return _stepper(model, closure, lr=1e-4, eps=1e-3)


def make_step(model: nn.Module, lr: float, eps: float, seed: int) -> Callable[[Any], object]:
    """For `ezo.conformance`. The noise is torch's global generator's, so ``seed`` does nothing."""
    return lambda closure: _stepper(model, closure, lr, eps)()


def _stepper(
    model: nn.Module, closure: Callable[..., Tensor], lr: float, eps: float
) -> Callable[[], Tensor]:
    from torchopt.diff.zero_order import zero_order

    parameters = tuple(model.parameters())
    optimizer = torch.optim.SGD(parameters, lr=lr)
    # It asks for noise of a shape alone: without a device that is the CPU's.
    noise = functools.partial(torch.randn, device=parameters[0].device)

    @zero_order(noise, method="antithetic", argnums=0, num_samples=1, sigma=eps)
    def loss_at(given: tuple[Tensor, ...]) -> Tensor:
        own = [p.data for p in parameters]
        try:
            for p, there in zip(parameters, given, strict=True):
                p.data = there.detach()
            return closure()
        finally:
            for p, here in zip(parameters, own, strict=True):
                p.data = here

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = loss_at(parameters)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step
