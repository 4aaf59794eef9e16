"""A front of integer layers that takes a batch a few examples at a time, to the same bits.

A layer is requantized by a shift that fits the whole batch (`ezo.int8.rounding.batch_shift`). Each
chunk is requantized by the last pass's, and says what it would need itself. Where the largest need
is another shift, the first such layer gets that and the batch is done again: the layers before it
had theirs, so that there are at most as many turns as layers, and nearly always one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ezo.int8.layers import Weighted
from ezo.int8.maps import MaxOverPoints, MaxPool2d, ReLU
from ezo.int8.tensor import Int8Tensor

Stage = tuple[Any, ReLU | None, Any]  # a layer, and the ReLU and the maximum after it


def front(stages: Sequence[Stage]) -> int:
    """How many stages keep nothing of a pass."""
    for i, layers in enumerate(stages):
        if any(getattr(layer, "keeping", False) for layer in layers) or _has_node(layers[0]):
            return i
    return len(stages)


def in_chunks(stages: Sequence[Stage], x: Int8Tensor, chunk: int) -> Int8Tensor:
    """What the stages make of x, int8 (N, ...), ``chunk`` examples at a time."""
    fitted = [layer for layer, _, _ in stages if _fits(layer)]
    while True:
        needs = dict.fromkeys(fitted, 0)
        whole: torch.Tensor | None = None
        for begin in range(0, len(x.m), chunk):
            part = Int8Tensor(x.m[begin : begin + chunk], x.e)
            for layer, relu, maximum in stages:
                part = _run(layer, relu, maximum, part, needs)
            if whole is None:
                whole = _room(part.m, len(x.m))
            whole[begin : begin + chunk] = part.m
        e = part.e
        wrong = next((layer for layer in fitted if needs[layer] != layer.shift), None)
        if wrong is None:
            assert whole is not None
            return Int8Tensor(whole, e)
        wrong.shift = needs[wrong]
        del whole, part


def _run(layer: Any, relu: Any, maximum: Any, x: Int8Tensor, needs: dict[Any, int]) -> Int8Tensor:
    if not isinstance(layer, Weighted):
        return layer.forward(x)
    pool = maximum.size if isinstance(maximum, MaxPool2d) else 1
    how = relu is not None, pool, isinstance(maximum, MaxOverPoints)
    if layer not in needs:
        return layer.forward(x, *how)
    y, need = layer.part(x, *how)
    needs[layer] = max(needs[layer], need)
    return y


def _fits(layer: Any) -> bool:
    """Whether its shift is the batch's: no logits, nor static."""
    return isinstance(layer, Weighted) and layer.requantized and layer.training


def _has_node(layer: Any) -> bool:
    return getattr(layer, "node", None) is not None


def _room(part: torch.Tensor, n: int) -> torch.Tensor:
    """For an output of ``n`` examples, laid out as a chunk's."""
    images = part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if images else torch.contiguous_format
    return torch.empty(
        (n, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout
    )
