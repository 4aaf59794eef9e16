"""How a network's layers are computed: what is one sweep, and how long a value stays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from ezo.int8.layers import Weighted
from ezo.int8.maps import Add, MaxOverPoints, MaxPool2d, ReLU
from ezo.int8.tensor import AtPoints, Int8Tensor


class Stage(NamedTuple):
    """A layer, and the ReLU and the maximum after it, which it does itself.

    Fields:
        inputs: names of the values that the layer takes.
        name: of the value that the stage gives.
        ends: the inputs that nobody takes later.
        alone: whether its value is then the only one that is taken later.
    """

    layer: Any
    relu: ReLU | None
    maximum: Any
    inputs: tuple[str, ...]
    name: str
    ends: frozenset[str] = frozenset()
    alone: bool = True

    def run(self, inputs: list[Int8Tensor]) -> Int8Tensor:
        """The value that it gives. ``inputs`` are let go of as soon as they can be."""
        layer, relu, maximum = self.layer, self.relu, self.maximum
        if isinstance(layer, Add):
            x = layer.forward(*inputs, relu is not None, relu.most if relu is not None else 0)
        elif isinstance(layer, Weighted):
            # a maximum of blocks that is kept for backward is a layer of its own
            blocks = isinstance(maximum, MaxPool2d)
            pool = maximum.size if blocks and not maximum.keeping else 1
            over, most = isinstance(maximum, MaxOverPoints), relu.most if relu is not None else 0
            x = layer.forward(inputs[0], relu is not None, pool, over, most)
        else:
            return layer.forward(*inputs)  # type: ignore[no-any-return]
        inputs.clear()
        if relu is not None and relu.keeping:
            relu.keep_output(x)
        if isinstance(maximum, MaxPool2d) and maximum.keeping:
            return maximum.forward(x)
        if isinstance(x, AtPoints):
            maximum.keep_output(x)
        return x

    def part(self, inputs: list[Int8Tensor]) -> tuple[Int8Tensor, int]:
        """`run` of some examples by the last pass's shift; and the one that they need."""
        layer, relu = self.layer, self.relu is not None
        most = self.relu.most if self.relu is not None else 0
        if isinstance(layer, Add):
            return layer.part(*inputs, relu, most)
        if isinstance(layer, Weighted):
            pool = self.maximum.size if isinstance(self.maximum, MaxPool2d) else 1
            over = isinstance(self.maximum, MaxOverPoints)
            return layer.part(inputs[0], relu, pool, over, most)
        return layer.part(*inputs)  # type: ignore[no-any-return]


def stages_of(nodes: Sequence[Any]) -> list[Stage]:
    """Layers with weights, each with the ReLU and the maximum that follow it, sums with the ReLU,
    and others alone.

    What is taken by more than the next layer has to be there, and ends a stage.
    """
    takers: dict[str, list[int]] = {}
    for i, node in enumerate(nodes):
        for name in node.inputs:
            takers.setdefault(name, []).append(i)
    found: list[Stage] = []
    rest = list(enumerate(nodes))

    def follows(name: str, kinds: Any) -> bool:
        near = bool(rest) and takers.get(name) == [rest[0][0]]
        return near and isinstance(rest[0][1].layer, kinds)

    while rest:
        (_, first), relu, maximum = rest.pop(0), None, None
        name = first.name
        if isinstance(first.layer, (Weighted, Add)) and follows(name, ReLU):
            _, node = rest.pop(0)
            relu, name = node.layer, node.name
        if isinstance(first.layer, Weighted) and follows(name, (MaxPool2d, MaxOverPoints)):
            _, node = rest.pop(0)
            maximum, name = node.layer, node.name
        next_one = rest[0][0] if rest else len(nodes)
        later = {of for of, places in takers.items() if places[-1] >= next_one}
        earlier = {stage.name for stage in found} | {nodes[0].inputs[0]}
        ends = frozenset(of for of in first.inputs if of not in later)
        alone = not later & earlier
        found.append(Stage(first.layer, relu, maximum, first.inputs, name, ends, alone))
    return found


def run(stages: Sequence[Stage], values: dict[str, Int8Tensor]) -> Int8Tensor:
    """The last stage's value, from those that the first ones take, which are let go of."""
    for stage in stages:
        inputs = [values[name] for name in stage.inputs]
        for name in stage.ends:
            del values[name]
        values[stage.name] = stage.run(inputs)
        del inputs
    return values.pop(stages[-1].name)
