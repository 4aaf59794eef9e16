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
        most: the ReLU's bound, or 0.
        kind: ``weighted``, ``add`` or nothing.
        pool: the size of the maximum's blocks, or 0 where it is none of blocks.
    """

    layer: Any
    relu: ReLU | None
    maximum: Any
    inputs: tuple[str, ...]
    name: str
    ends: tuple[str, ...] = ()
    alone: bool = True
    most: int = 0
    kind: str = ""
    pool: int = 0

    def run(self, inputs: list[Int8Tensor]) -> Int8Tensor:
        """The value that it gives. ``inputs`` are let go of as soon as they can be."""
        layer, relu, maximum, kind = self.layer, self.relu, self.maximum, self.kind
        if kind == "weighted":
            # a maximum of blocks that is kept for backward is a layer of its own
            apart = self.pool > 0 and maximum.keeping
            over = maximum is not None and not self.pool
            pool = 1 if apart else self.pool or 1
            x = layer.forward(inputs.pop(), relu is not None, pool, over, self.most)
            if relu is not None and relu.keeping:
                relu.keep_output(x)
            if apart:
                return maximum.forward(x)
            if over and isinstance(x, AtPoints):
                maximum.keep_output(x)
            return x
        if kind == "add":
            x = layer.forward(*inputs, relu is not None, self.most)
            if relu is not None and relu.keeping:
                relu.keep_output(x)
            return x
        return layer.forward(*inputs)

    def part(self, inputs: list[Int8Tensor]) -> tuple[Int8Tensor, int]:
        """`run` of some examples by the last pass's shift; and the one that they need."""
        layer, relu = self.layer, self.relu is not None
        if self.kind == "add":
            return layer.part(*inputs, relu, self.most)
        if self.kind == "weighted":
            over = self.maximum is not None and not self.pool
            return layer.part(inputs[0], relu, self.pool or 1, over, self.most)
        return layer.part(*inputs)


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
        ends = tuple(of for of in dict.fromkeys(first.inputs) if of not in later)
        most, pool = relu.most if relu is not None else 0, getattr(maximum, "size", 0)
        kind = "weighted" if isinstance(first.layer, Weighted) else ""
        kind = "add" if isinstance(first.layer, Add) else kind
        layers = first.layer, relu, maximum
        alone = not later & earlier
        found.append(Stage(*layers, first.inputs, name, ends, alone, most, kind, pool))
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
