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
from ezo.int8.layer import Layer, Requantized
from ezo.int8.layers import Weighted
from ezo.int8.maps import Add, add_up
from ezo.int8.stages import run, stages_of
from ezo.int8.tensor import Int8Tensor

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
    """Nodes in the order they are computed; the last gives its accumulators.

    Its state dict holds int8 mantissas, ``layers.i.weight`` and ``layers.i.bias`` for the i-th
    node, and their exponents, ``layers.i.weight_exponent`` and ``layers.i.bias_exponent``; once
    calibrated ``layers.i.static_exponents`` too, of the layer's input and output.

    In train mode, a new network's, activations are requantized by a shift that fits the batch, so
    that an example's logits depend on the others of its batch. In eval mode they are by static
    ones, which `calibrate` finds, and depend on nothing else.

    Args:
        nodes: or layers alone, which are then named by their numbers and follow one another.
        folded: names of modules of the float model that are part of a node, and the node's.

    Attributes:
        nodes, folded: as given.
        chunk: examples that layers which keep nothing take at a time, to the same bits; 0 for all.

    Raises:
        ValueError: a node takes what is not there, or its value is not taken, or the nodes don't
            end in a layer with weights.
    """

    def __init__(
        self, nodes: Iterable[Node | Layer], folded: Iterable[tuple[str, str]] = ()
    ) -> None:
        super().__init__()
        self.nodes: tuple[Node, ...] = ()
        self.folded = tuple(folded)
        for i, node in enumerate(nodes):
            before = self.nodes[-1].name if self.nodes else INPUT
            if not isinstance(node, Node):
                node = Node(node, (before,), str(i))
            self.nodes += (node,)
        self._check()
        self.layers: Any = nn.ModuleList(node.layer for node in self.nodes)
        weighted = self.weighted()
        if not weighted or weighted[-1] is not self.layers[-1]:
            raise ValueError("expected a model that ends in a linear layer, the logits")
        weighted[-1].requantized = False
        places = [i for i, layer in enumerate(self.layers) if isinstance(layer, Weighted)]
        self._first_bp = [len(self.layers), *reversed(places)]  # by the number of BP layers
        self.chunk = 0
        self._stages = stages_of(self.nodes)

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """(N, ...), int8, to logits (N, classes), int32."""
        if not isinstance(x, Int8Tensor):
            raise ValueError(
                f"expected an Int8Tensor, got {type(x).__name__}; give ezo.int8.quantize(x)"
            )
        stages, name = self._stages, INPUT
        if self.chunk and len(x.m) > self.chunk and (kept := front(stages)):
            x = in_chunks(stages[:kept], x, self.chunk)
            stages, name = stages[kept:], stages[kept - 1].name
            if not stages:
                return x
        values = {name: x}
        del x
        return run(stages, values)

    def _check(self) -> None:
        known = {INPUT}
        for node in self.nodes:
            wanted = 2 if isinstance(node.layer, Add) else 1
            if (
                node.name in known
                or len(node.inputs) != wanted
                or not known.issuperset(node.inputs)
            ):
                raise ValueError(
                    f"expected {wanted} of {', '.join(sorted(known))} before {node.name}, got "
                    f"{', '.join(node.inputs) or 'none'}; order the nodes so, each with a name of "
                    "its own"
                )
            known.add(node.name)
        taken = {name for node in self.nodes for name in node.inputs}
        left = [node.name for node in self.nodes[:-1] if node.name not in taken]
        if left:
            raise ValueError(
                f"expected every node's value to be taken by another, got {', '.join(left)}, whose "
                "value is taken by none; leave that out"
            )

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
        for layer in self.layers:
            if isinstance(layer, Requantized):
                layer.static_exponents = layer.exponents
        return self.train(training)

    @property
    def input_exponent(self) -> int | None:
        """Of inputs in eval mode (`ezo.int8.quantize_at`); None before `calibrate`."""
        first = next(layer for layer in self.layers if isinstance(layer, Requantized))
        return None if first.static_exponents is None else first.static_exponents[0]

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
        """Errors of the logits (N, classes) back to the last ``bp_layers`` layers.

        Where several nodes take a value, its errors are the sum of theirs.
        """
        first = self._first(bp_layers)
        places = {node.name: i for i, node in enumerate(self.nodes)}
        errors = {self.nodes[-1].name: grad_output}
        del grad_output
        for i in range(len(self.nodes) - 1, first - 1, -1):
            node = self.nodes[i]
            wanted = [name for name in node.inputs if places.get(name, -1) >= first]
            found = node.layer.backward(errors.pop(node.name), bool(wanted))
            for name in wanted:
                errors[name] = add_up(errors[name], found) if name in errors else found
            del found

    def _first(self, bp_layers: int) -> int:
        if not 0 <= bp_layers < len(self._first_bp):
            most = len(self._first_bp) - 1
            raise ValueError(f"expected 0 to {most} BP layers, got {bp_layers}")
        return self._first_bp[bp_layers]


def __getattr__(name: str) -> Any:
    if name == "Sequence":
        warnings.warn(
            "ezo.int8.network.Sequence is now Network; the old name goes with the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return Network
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
