"""torch's own optimisers by backpropagation: Adam, and SGD fused into the backward pass."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

NAMES = ("torch-sgd", "torch-adam", "torch-sgd-fused-backward")


def step(name: str, model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """One forward and one backward pass.

    Fused into backward, a parameter is stepped, and its gradient freed, as soon as that is there.
    """
    if name == "torch-sgd-fused-backward":
        return _fused(model, closure)
    if name == "torch-adam":
        return backprop(torch.optim.Adam(model.parameters(), lr=1e-4), closure)
    return backprop(_sgd(list(model.parameters())), closure)


def backprop(
    optimizer: torch.optim.Optimizer, closure: Callable[..., Tensor]
) -> Callable[[], Tensor]:
    """The usual loop's body."""

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = closure()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def _sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.01, momentum=0.9)


def _fused(model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    optimizers = {p: _sgd([p]) for p in model.parameters()}

    def hook(parameter: nn.Parameter) -> None:
        optimizers[parameter].step()
        optimizers[parameter].zero_grad()

    for p in model.parameters():
        p.register_post_accumulate_grad_hook(hook)

    def step() -> Tensor:
        loss = closure()
        loss.backward()
        return loss.detach()

    return step
