"""Backpropagation with activation checkpointing: less memory for one more forward pass."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ezo.methods import Parts

NAMES = ("full-bp-checkpoint",)
INTEGERS = False


def parts(name: str) -> Parts:
    """All layers by BP."""
    return Parts("all")


def prepare(model: nn.Module) -> None:
    """Each ``nn.Sequential`` of n modules keeps about sqrt(n) activations (Chen et al. 2016)."""
    for module in _outermost_sequentials(model):
        module.forward = _checkpointed(module)  # type: ignore[method-assign]


def _outermost_sequentials(module: nn.Module) -> Iterator[nn.Sequential]:
    # A subclass with a forward of its own is more than its modules in a row.
    if isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward:
        yield module
    else:
        for child in module.children():
            yield from _outermost_sequentials(child)


def _checkpointed(sequential: nn.Sequential) -> Callable[[Tensor], Tensor]:
    modules = list(sequential)
    length = math.ceil(len(modules) / max(1, round(math.sqrt(len(modules)))))
    segments = [modules[i : i + length] for i in range(0, len(modules), length)]

    def run(segment: list[nn.Module], x: Tensor) -> Tensor:
        return functools.reduce(lambda x, module: module(x), segment, x)

    def contexts(segment: list[nn.Module]) -> tuple[Any, Any]:  # of either forward pass
        return contextlib.nullcontext(), _still(segment)

    def forward(x: Tensor) -> Tensor:
        for segment in segments:
            again = functools.partial(contexts, segment)
            x = checkpoint(run, segment, x, use_reentrant=False, context_fn=again)
        return x

    return forward


@contextlib.contextmanager
def _still(segment: list[nn.Module]) -> Iterator[None]:
    """The second forward pass must not update buffers, batch norm's or others, again.

    It updates copies: without statistics, autograd would save other tensors than in the first.
    """
    writing = [m for of in segment for m in of.modules() if m._buffers and m.training]
    before = [dict(m._buffers) for m in writing]
    for m in writing:
        m._buffers.update(
            {name: None if x is None else x.clone() for name, x in m._buffers.items()}
        )
    try:
        yield
    finally:
        for m, ours in zip(writing, before, strict=True):
            m._buffers.update(ours)
