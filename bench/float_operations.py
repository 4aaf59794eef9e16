"""Floating-point operations in a training step in integers, counted: int8 has none.

An operation counts when torch dispatches it and a tensor or a number that it reads or makes is
floating-point. What a compiled kernel does inside is not seen; the reference is what is counted.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bench.workload import CLASSES, prepared
from ezo import catalogue, kernels, rows
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
P_ZERO = 0.5  # so that weights are left alone, too
POINTS = 64  # of a cloud; their number changes no operation


@dataclass(frozen=True)
class Case:
    """A method's step in int8 on one batch of random data."""

    model: str
    method: str
    batch_size: int = 32

    @property
    def name(self) -> str:
        return f"{self.model}-{self.method}-int8-batch{self.batch_size}-operations"


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Case]:
    """Every method on every model."""
    return [Case(model, method, batch_size) for model in models for method in methods or METHODS]


def measure(case: Case) -> list[Row]:
    """``float_operations`` of the second step; the batch is quantised before it."""
    module = catalogue.find("model", case.model)
    classes, image = CLASSES[module.INPUT], module.INPUT == "image"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = module.build(case.model, classes, 1 if image else 3)
        x = torch.randn(case.batch_size, *((1, 28, 28) if image else (POINTS, 3)))
        y = torch.randint(0, classes, (case.batch_size,))
    step, batch, y = prepared("int8", case.method, model, x, y, p_zero=P_ZERO)
    with kernels.using("reference"):
        step(batch, y)
        with _Count() as count:
            step(batch, y)
    return [
        Row(
            case=case.name,
            metric="float_operations",
            value=count.floating,
            unit="1",
            note=f"of {count.all} operations of the reference that torch dispatches",
            model=case.model,
            data="random",
            method=case.method,
            precision="int8",
            config={"batch_size": case.batch_size},
            threads=torch.get_num_threads(),
            **rows.provenance(),
        )
    ]


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
