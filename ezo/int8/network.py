"""An integer network: layers, each naming its inputs, made from a float model (`ezo.int8.convert`).

The last layer with weights is not requantized: its int32 accumulators are the logits, so that two
passes differ where their loss does.
"""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn

from ezo.int8.chunks import front, in_chunks
from ezo.int8.layers import Layer, Weighted
from ezo.int8.maps import MaxOverPoints, MaxPool2d, ReLU
from ezo.int8.tensor import AtPoints, Int8Tensor

INPUT = "input"


@dataclass(frozen=True)
class Node:
    """A layer in its place, and the names of the nodes whose outputs it takes; `INPUT` is given.

    Its own name is unique: the path of the float model's module that it was made from; where the
    module's forward calls a function, with the function's name behind.
    """

    layer: Layer
    inputs: tuple[str, ...]
    name: str


class Network(nn.Module):
    """Nodes in the order they are computed, today a chain; the last gives its accumulators.

    Its state dict holds int8 mantissas, ``layers.i.weight`` and ``layers.i.bias`` for the i-th
    node, and their exponents, ``layers.i.weight_exponent`` and ``layers.i.bias_exponent``; once
    calibrated ``layers.i.static_exponents`` too, of the layer's input and output.

    In train mode, a new network's, activations are requantized by a shift that fits the batch, so
    that an example's logits depend on the others of its batch. In eval mode they are by static
    ones, which `calibrate` finds, and depend on nothing else.

    Args:
        nodes: or layers alone, which are then named by their numbers and follow one another.

    Attributes:
        nodes: as given.
        chunk: examples that layers which keep nothing take at a time, to the same bits; 0 for all.

    Raises:
        ValueError: the nodes are no chain, or don't end in a layer with weights.
    """

    def __init__(self, nodes: Iterable[Node | Layer]) -> None:
        super().__init__()
        self.nodes: tuple[Node, ...] = ()
        for i, node in enumerate(nodes):
            before = self.nodes[-1].name if self.nodes else INPUT
            if not isinstance(node, Node):
                node = Node(node, (before,), str(i))
            if node.inputs != (before,):
                raise ValueError(
                    f"expected a chain, {node.name} after {before}, got {node.name} after "
                    f"{', '.join(node.inputs)}; order the nodes so, each with one input"
                )
            self.nodes += (node,)
        self.layers: Any = nn.ModuleList(node.layer for node in self.nodes)
        weighted = self.weighted()
        if not weighted or weighted[-1] is not self.layers[-1]:
            raise ValueError("expected a model that ends in a linear layer, the logits")
        weighted[-1].requantized = False
        places = [i for i, layer in enumerate(self.layers) if isinstance(layer, Weighted)]
        self._first_bp = [len(self.layers), *reversed(places)]  # by the number of BP layers
        self.chunk = 0
        self._stages = _stages(list(self.layers))

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """(N, ...), int8, to logits (N, classes), int32."""
        if not isinstance(x, Int8Tensor):
            raise ValueError(
                f"expected an Int8Tensor, got {type(x).__name__}; give ezo.int8.quantize(x)"
            )
        stages = self._stages
        if self.chunk and len(x.m) > self.chunk and (kept := front(stages)):
            x, stages = in_chunks(stages[:kept], x, self.chunk), stages[kept:]
        for layer, relu, maximum in stages:
            if not isinstance(layer, Weighted):
                x = layer.forward(x)
                continue
            # a maximum of blocks that is kept for backward is a layer of its own
            apart = isinstance(maximum, MaxPool2d) and maximum.keeping
            pool = maximum.size if isinstance(maximum, MaxPool2d) and not apart else 1
            x = layer.forward(x, relu is not None, pool, isinstance(maximum, MaxOverPoints))
            if relu is not None and relu.keeping:
                relu.keep_output(x)
            if apart:
                x = maximum.forward(x)
            elif isinstance(x, AtPoints):
                maximum.keep_output(x)
        return x

    def weighted(self) -> list[Weighted]:
        """The layers with weights, in order."""
        return [layer for layer in self.layers if isinstance(layer, Weighted)]

    def calibrate(self, x: Int8Tensor) -> "Network":
        """Fix the exponents of eval mode at those of a pass of training examples, as one batch.

        They belong to these weights: calibrate again after training. Activations of other examples
        that go beyond are held at +-127.
        """
        training = self.training
        self.train()(x)
        e = x.e
        for layer in self.weighted():
            before, e = e, e + layer.weight_exponent + layer.shift
            layer.static_exponents = before, e
        return self.train(training)

    @property
    def input_exponent(self) -> int | None:
        """Of inputs in eval mode (`ezo.int8.quantize_at`); None before `calibrate`."""
        found = self.weighted()[0].static_exponents
        return None if found is None else found[0]

    def requires_grad_(self, requires_grad: bool = True) -> "Network":
        """Whether steps move the weights: of each layer's `Weighted.requires_grad_`."""
        for layer in self.weighted():
            layer.requires_grad_(requires_grad)
        return self

    def first_layer(self, bp: int | str) -> int:
        """The first of the last ``bp`` layers that are not frozen, among those with weights.

        Raises:
            ValueError: there are not so many.
        """
        free = [i for i, layer in enumerate(self.weighted()) if any(layer.moving())]
        if bp == "all":
            bp = len(free)
        if isinstance(bp, bool) or not isinstance(bp, int) or not 0 <= bp <= len(free):
            raise ValueError(f"expected bp from 0 to {len(free)} layers or 'all', got {bp!r}")
        return free[len(free) - bp] if bp else len(self.weighted())

    def keep(self, bp_layers: int) -> None:
        """Let the last ``bp_layers`` layers with weights remember what backward needs."""
        first = self._first(bp_layers)
        for i, layer in enumerate(self.layers):
            if layer.keeping != (i >= first):  # setting a module's attribute is slow
                layer.keeping = i >= first

    def backward(self, grad_output: Int8Tensor, bp_layers: int) -> None:
        """Errors of the logits (N, classes) back to the last ``bp_layers`` layers."""
        first = self._first(bp_layers)
        for i in range(len(self.layers) - 1, first - 1, -1):
            grad_output = self.layers[i].backward(grad_output, i > first)

    def _first(self, bp_layers: int) -> int:
        if not 0 <= bp_layers < len(self._first_bp):
            most = len(self._first_bp) - 1
            raise ValueError(f"expected 0 to {most} BP layers, got {bp_layers}")
        return self._first_bp[bp_layers]


def _stages(layers: list[Any]) -> list[tuple[Any, ReLU | None, Any]]:
    """Layers with weights, each with the ReLU and the maximum that follow it, and others alone."""
    stages = []
    while layers:
        layer, relu, maximum = layers.pop(0), None, None
        if isinstance(layer, Weighted):
            if layers and isinstance(layers[0], ReLU):
                relu = layers.pop(0)
            if layers and isinstance(layers[0], (MaxPool2d, MaxOverPoints)):
                maximum = layers.pop(0)
        stages.append((layer, relu, maximum))
    return stages


def __getattr__(name: str) -> Any:
    if name == "Sequence":
        warnings.warn(
            "ezo.int8.network.Sequence is now Network; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return Network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
