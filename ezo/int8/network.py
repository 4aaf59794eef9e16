"""An integer network: layers one after the other, made from a float model (`ezo.int8.convert`).

The last layer with weights is not rounded to int8: its int32 sums are the logits, so that two
passes differ where their loss does.
"""

from collections.abc import Iterable
from typing import Any

from torch import nn

from ezo.int8 import fast
from ezo.int8.layers import Layer, MaxOverPoints, MaxPool2d, ReLU, Weighted
from ezo.int8.tensor import AtPoints, Int8Tensor


class Sequence(nn.Module):
    """Layers one after the other; the last with weights gives its int32 sums.

    Attributes:
        tiles: on the compiled path, never hold a layer's int32 sums whole: less memory, and now
            and then a layer is computed twice (`ezo.int8.fast`). The bits are the same, and since a
            shift seldom changes from one pass to the next, it costs no time either: `bench run
            precisions` measures both.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        weighted = self.weighted()
        if not weighted or weighted[-1] is not self.layers[-1]:
            raise ValueError("expected a model that ends in a linear layer, the logits")
        weighted[-1].rounded = False
        places = [i for i, layer in enumerate(self.layers) if isinstance(layer, Weighted)]
        self._first_bp = [len(self.layers), *reversed(places)]  # by the number of BP layers
        self._stages = _stages(list(self.layers))

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """(N, ...), int8, to logits (N, classes), int32."""
        if not isinstance(x, Int8Tensor):
            raise ValueError(
                f"expected an Int8Tensor, got {type(x).__name__}; give ezo.int8.quantize(x)"
            )
        if not fast.usable(x.m):
            for layer in self.layers:
                x = layer(x)
            return x
        for layer, relu, most in self._stages:
            if not isinstance(layer, Weighted):
                x = layer.forward(x)
                continue
            # a maximum of blocks that is kept for backward is a layer of its own
            apart = isinstance(most, MaxPool2d) and most.keeping
            pool = most.size if isinstance(most, MaxPool2d) and not apart else 1
            x = layer.fused(x, relu is not None, pool, isinstance(most, MaxOverPoints))
            if relu is not None and relu.keeping:
                relu.keep_output(x.m)
            if apart:
                x = most.forward(x)
            elif isinstance(x, AtPoints):
                most.keep_output(x.where, x.points)
        return x

    @property
    def tiles(self) -> bool:
        return all(layer.tiles for layer in self.weighted())

    @tiles.setter
    def tiles(self, value: bool) -> None:
        for layer in self.weighted():
            layer.tiles = value

    def weighted(self) -> list[Weighted]:
        """The layers with weights, in order."""
        return [layer for layer in self.layers if isinstance(layer, Weighted)]

    def keep(self, bp_layers: int) -> None:
        """Let the last ``bp_layers`` layers with weights remember what backward needs."""
        first = self._first(bp_layers)
        for i, layer in enumerate(self.layers):
            if layer.keeping != (i >= first):  # setting a module's attribute is slow
                layer.keeping = i >= first

    def backward(self, err: Int8Tensor, bp_layers: int) -> None:
        """Errors of the logits (N, classes) back to the last ``bp_layers`` layers."""
        first = self._first(bp_layers)
        for i in range(len(self.layers) - 1, first - 1, -1):
            err = self.layers[i].backward(err, below=i > first)

    def _first(self, bp_layers: int) -> int:
        if not 0 <= bp_layers < len(self._first_bp):
            most = len(self._first_bp) - 1
            raise ValueError(f"expected 0 to {most} BP layers, got {bp_layers}")
        return self._first_bp[bp_layers]


def _stages(layers: list[Any]) -> list[tuple[Any, ReLU | None, Any]]:
    """Layers with weights, each with the ReLU and the maximum that follow it, and others alone."""
    stages = []
    while layers:
        layer, relu, most = layers.pop(0), None, None
        if isinstance(layer, Weighted):
            if layers and isinstance(layers[0], ReLU):
                relu = layers.pop(0)
            if layers and isinstance(layers[0], (MaxPool2d, MaxOverPoints)):
                most = layers.pop(0)
        stages.append((layer, relu, most))
    return stages
