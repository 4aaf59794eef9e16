"""Exact tensor bytes: every storage that is alive, at the moment when they add up to the most.

A dispatch mode sees every tensor that an operation makes, and a storage's end. It is exact and
repeatable, and does not see buffers inside an operation (a convolution's scratch, for one).
"""

import gc
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.workload import Workload
from ezo import rows
from ezo.rows import Row

METHODS = ("inference", "full-zo", "elastic-1", "elastic-2", "full-bp", "full-bp-checkpoint")
UNIT = "B"


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Workload]:
    """Every method on every model."""
    return [
        Workload(model, method, batch_size) for model in models for method in methods or METHODS
    ]


def measure(case: Workload) -> list[Row]:
    """Peak bytes of the third step, parameters, gradients, optimiser state and batch included."""
    model, step = case.prepare()
    for _ in range(2):
        step()
    gc.collect()
    peak = peak_bytes(step)
    return [
        Row(
            case=case.name,
            metric="peak_tensor_bytes",
            value=peak,
            unit=UNIT,
            model=case.model,
            data="random",
            method=case.method,
            config={"batch_size": case.batch_size},
            threads=torch.get_num_threads(),
            **rows.provenance(),
        )
    ]


def peak_bytes(step: Callable[[], Any]) -> int:
    """The most bytes of tensors that are alive at any moment of ``step()``.

    Tensors made earlier count when they are alive before or used within.
    """
    with _LiveBytes() as live:
        # By type, not isinstance: asking some objects for their class runs code of theirs.
        live.add(x for x in gc.get_objects() if issubclass(type(x), Tensor))
        live.peak = live.now
        step()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages from their first sight to their end."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key in self._alive:
                continue

            def gone(_: object, key: int = key, size: int = size) -> None:
                if self._alive.pop(key, None) is not None:
                    self.now -= size

            self._alive[key] = weakref.ref(storage, gone)
            self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_iter((args, kwargs, result)))
        return result
