"""A front of integer layers that takes a batch a few examples at a time, to the same bits.

A layer is requantized by a shift that fits the whole batch (`ezo.int8.rounding.batch_shift`). Each
chunk is requantized by the last pass's, and says what it would need itself. Where the largest need
is another shift, the first such layer gets that and the batch is done again: the layers before it
had theirs, so that there are at most as many turns as layers, and nearly always one.
"""

from collections.abc import Sequence
from typing import Any

import torch

from ezo.int8.layer import Requantized
from ezo.int8.stages import Stage
from ezo.int8.tensor import Int8Tensor


def front(stages: Sequence[Stage]) -> int:
    """How many stages keep nothing of a pass, and hand on one value alone."""
    fits = 0
    for i, stage in enumerate(stages, 1):
        layers = (stage.layer, stage.relu, stage.maximum)
        if any(getattr(layer, "keeping", False) for layer in layers) or _has_node(stage.layer):
            break
        if stage.alone:
            fits = i
    return fits


def in_chunks(stages: Sequence[Stage], x: Int8Tensor, chunk: int) -> Int8Tensor:
    """What the stages make of x, int8 (N, ...), ``chunk`` examples at a time."""
    fitted = [stage.layer for stage in stages if _fits(stage.layer)]
    while True:
        needs = dict.fromkeys(fitted, 0)
        whole: torch.Tensor | None = None
        for begin in range(0, len(x.m), chunk):
            part = _run(stages, Int8Tensor(x.m[begin : begin + chunk], x.e), needs)
            if whole is None:
                whole = _room(part.m, len(x.m))
            whole[begin : begin + chunk] = part.m
            e = part.e
            del part  # not beside the next one's layers
        wrong = next((layer for layer in fitted if needs[layer] != layer.shift), None)
        if wrong is None:
            assert whole is not None
            return Int8Tensor(whole, e)
        wrong.shift = needs[wrong]
        del whole


def _run(stages: Sequence[Stage], x: Int8Tensor, needs: dict[Any, int]) -> Int8Tensor:
    values = {stages[0].inputs[0]: x}
    del x
    for stage in stages:
        inputs = [values[name] for name in stage.inputs]
        for name in stage.ends:
            del values[name]
        if stage.layer in needs:
            values[stage.name], need = stage.part(inputs)
            needs[stage.layer] = max(needs[stage.layer], need)
        else:
            values[stage.name] = stage.run(inputs)
        del inputs
    return values.pop(stages[-1].name)


def _fits(layer: Any) -> bool:
    """Whether its shift is the batch's: no logits, nor static."""
    return isinstance(layer, Requantized) and layer.requantized and layer.training


def _has_node(layer: Any) -> bool:
    return getattr(layer, "node", None) is not None


def _room(part: torch.Tensor, n: int) -> torch.Tensor:
    """For an output of ``n`` examples, laid out as a chunk's."""
    images = part.dim() == 4 and part.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if images else torch.contiguous_format
    return torch.empty(
        (n, *part.shape[1:]), dtype=part.dtype, device=part.device, memory_format=layout
    )
