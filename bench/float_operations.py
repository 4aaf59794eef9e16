"""Floating-point operations in a training step in integers, counted: int8 has none.

The values are those that training uses (`ezo.tuned`). An operation counts when torch dispatches it
and a tensor or a number that it reads or makes is floating-point. What a compiled kernel does
inside is not seen; the reference is what is counted.
"""

from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.workload import Workload
from ezo import catalogue, kernels
from ezo.rows import Row
from ezo.tuned import tuned

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
TRAINED_ON = {"image": "mnist", "points": "shapes-256"}  # whose tuned values are measured


@dataclass(frozen=True)
class Operations(Workload):
    """A method's step in int8 on one batch of random data."""

    points: int = 64  # their number changes no operation
    precision: str = "int8"

    @property
    def name(self) -> str:
        place = "" if self.device == "cpu" else f"-{self.device.replace(':', '')}"
        return f"{self.model}-{self.method}-int8-batch{self.batch_size}{place}-operations"


def cases(model: str, method: str, batch_size: int) -> list[Operations]:
    """A method on a model."""
    return [Operations(model, method, batch_size)]


def measure(case: Operations) -> list[Row]:
    """``float_operations`` of the second step; the batch is quantised before it."""
    kind = catalogue.find("model", case.model).INPUT
    values = tuned(case.model, TRAINED_ON[kind], case.method, case.precision)
    _, step = case.prepare(**asdict(values))
    with kernels.using("reference"):
        step()
        with _Count() as count:
            step()
    note = f"of {count.all} operations of the reference that torch dispatches"
    return [case.row("float_operations", count.floating, "1", note)]


class _Count(TorchDispatchMode):
    """Counts operations, and those with a floating-point number in or out."""

    def __init__(self) -> None:
        super().__init__()
        self.all = self.floating = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.all += 1
        self.floating += any(map(_is_float, tree_leaves((args, kwargs, result))))
        return result


def _is_float(value: Any) -> bool:
    return isinstance(value, float) or (isinstance(value, Tensor) and value.is_floating_point())
