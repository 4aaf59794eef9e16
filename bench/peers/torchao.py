"""torchao's Adam with its state in 8 bits, by backpropagation."""

from collections.abc import Callable

from torch import Tensor, nn

from bench.peers.torch_bp import backprop

NAMES = ("torchao-adam8bit",)


def step(name: str, model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """One forward and one backward pass."""
    from torchao.optim import Adam8bit

    return backprop(Adam8bit(model.parameters(), lr=1e-4), closure)
