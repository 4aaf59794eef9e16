"""Which layers have a C form: a file of the runtime is one, and its head says what it costs.

The head of ``runtime/ezo_linear.c``:

    layer: Linear               the class of the layer, and in C the constant ``ezo_Linear``
    scratch: 0                  bytes while it runs
    calls: out // 4 + out % 4   a name of the head's own, for the lines below it
    instructions: calls * (11 * in + 35) + 75 * out   of an example forward, roughly

``scratch dsp`` and ``instructions dsp`` are those of the form that uses SMLAD, where it differs.
Expressions are Python's, of integers, + - * / // % == (1 or 0) and parentheses, over the stage's
sizes (`sizes`).

Instructions are a Cortex-M4's, by gcc -O2: sums over the functions of single layers, counted as
``python -m bench.mcu instructions`` counts them, of one example in its forward pass.
"""

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ezo.export.describe import Stage

RUNTIME = Path(__file__).with_name("runtime")
_COSTS = ("layer", "scratch", "instructions")
_OPERATIONS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


@dataclass(frozen=True)
class Kind:
    """A layer's C form: the lines of its head by name."""

    file: str
    head: dict[str, str]

    def scratch(self, stage: Stage, dsp: bool) -> int:
        """Bytes, a multiple of 4."""
        return -(-int(self._value("scratch", stage, dsp)) // 4) * 4

    def instructions(self, stage: Stage, dsp: bool) -> float:
        """Of an example's forward pass, roughly."""
        return self._value("instructions", stage, dsp)

    def _value(self, name: str, stage: Stage, dsp: bool) -> float:
        names = sizes(stage)
        for own, text in self.head.items():
            if own.isidentifier() and own not in _COSTS:
                names[own] = evaluate(text, names)
        text = self.head.get(f"{name} dsp" if dsp else name, self.head[name])
        return evaluate(text, names)


@functools.cache
def kinds() -> dict[str, Kind]:
    """Every kind of layer that has a C form, by its class's name."""
    found = {}
    for path in sorted(RUNTIME.glob("*.c")):
        comment = path.read_text(encoding="utf-8").split("*/", 1)[0]
        head = dict(re.findall(r"^ \* ([a-z ]+): (.+)$", comment, re.MULTILINE))
        if "layer" in head:
            found[head["layer"]] = Kind(path.name, head)
    return found


def find(stage: Stage) -> Kind:
    """The stage's C form.

    Raises:
        ValueError: there is none.
    """
    if stage.kind not in kinds():
        raise ValueError(
            f"can't export {stage.name}, {stage.kind}: layers with a C form are "
            f"{', '.join(kinds())}; a file in ezo/export/runtime gives one to another"
        )
    return kinds()[stage.kind]


def sizes(stage: Stage) -> dict[str, float]:
    """What a head's expressions may name."""
    image = stage.inputs if len(stage.inputs) == 3 else (stage.inputs[0], 1, 1)
    inputs, outputs = math.prod(stage.inputs), math.prod(stage.outputs)
    grown = 2 * stage.padding - stage.kernel + 1
    sums = stage.outputs[0] * (image[1] + grown) * (image[2] + grown) if image[1] > 1 else outputs
    weights = 0 if stage.weight is None else len(stage.weight)
    return {
        "channels": image[0],
        "height": image[1],
        "width": image[2],
        "kernel": stage.kernel,
        "padding": stage.padding,
        "in": inputs,
        "out": outputs,
        "outputs": stage.outputs[0],
        "sums": sums,
        "products": sums * weights // stage.outputs[0],
    }


def evaluate(text: str, names: Mapping[str, float]) -> float:
    """An expression's value.

    >>> evaluate("2 * in + 7 // 2", {"in": 3})
    9
    """
    tree = ast.parse(re.sub(r"\bin\b", "in_", text), mode="eval")
    known = {"in_" if name == "in" else name: value for name, value in names.items()}

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name) and node.id in known:
            return known[node.id]
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
            return _OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.Compare) and [type(op) for op in node.ops] == [ast.Eq]:
            return int(value(node.left) == value(node.comparators[0]))
        raise ValueError(f"expected sums and products of {', '.join(names)}, got '{text}'")

    return value(tree.body)
