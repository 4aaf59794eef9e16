"""Exact tensor bytes of a training step: every storage alive, by kind and by module.

A dispatch mode sees every tensor that an operation makes, and a storage's end. It is exact and
repeatable, works on fake tensors as on real ones, and does not see buffers inside an operation
(a convolution's scratch, for one).
"""

import contextlib
import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from ezo import kernels, phases

KINDS = ("parameters", "activations", "temporaries", "gradients", "optimizer", "scratch", "batch")
Prepare = Callable[[], tuple[nn.Module, Callable[[], Any]]]


@dataclass(frozen=True)
class Peak:
    """What is alive when a step needs the most.

    Attributes:
        kinds: bytes of each of `KINDS`. ``parameters`` include buffers; ``activations`` are kept
            for the backward pass, ``temporaries`` are not; ``optimizer`` is its state, ``scratch``
            is for noise, and ``batch`` is what else was there before the first step.
        modules: bytes by (module, kind): whose parameter or gradient it is, or whose forward pass
            made it. Without a module's name where no module did.
    """

    peak_bytes: int
    kinds: dict[str, int]
    modules: dict[tuple[str, str], int]


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages from their first sight to their end."""

    def __init__(self) -> None:
        super().__init__()
        self._alive: dict[int, tuple[Any, _Block]] = {}
        self._start: list[_Block] = []
        self._events: list[tuple[_Block, int]] = []
        self._inside: list[str] = []
        self._names: Any = weakref.WeakKeyDictionary()  # by module

    def add(self, tensors: Iterable[Any], kind: str = "", module: str = "") -> None:
        """Count these from now on; what is not a tensor is passed over."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            if (parts := _parts(tensor)) is not None:
                self.add(parts, kind, module)
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) in self._alive:
                continue
            block = _Block(storage.nbytes(), kind, module)

            def gone(_: object, key: int = key, block: _Block = block) -> None:
                if self._alive.pop(key, None) is not None:
                    self._events.append((block, -1))

            self._alive[key] = weakref.ref(storage, gone), block
            self._events.append((block, 1))

    def mark(self, tensor: Tensor, kind: str, module: str = "") -> None:
        """Say what a tensor's storage is."""
        if (parts := _parts(tensor)) is not None:
            for part in parts:
                self.mark(part, kind, module)
            return
        self.add([tensor])
        block = self._block(tensor)
        block.kind, block.module = kind, module or block.module

    def unmarked(self) -> list["_Block"]:
        """What is alive and of no kind."""
        return [block for _, block in self._alive.values() if not block.kind]

    def restart(self) -> None:
        """Look for the peak from here on."""
        self._start = [block for _, block in self._alive.values()]
        self._events = []

    def at_peak(self) -> Peak:
        """The peak since `restart`, taken apart."""
        now = most = sum(block.size for block in self._start)
        last = 0
        for i, (block, sign) in enumerate(self._events, start=1):
            now += sign * block.size
            if now > most:
                most, last = now, i
        count = Counter(self._start)
        for block, sign in self._events[:last]:
            count[block] += sign
        kinds = dict.fromkeys(KINDS, 0)
        modules: Counter[tuple[str, str]] = Counter()
        for block, alive in count.items():
            kind = block.kind or "temporaries"
            kinds[kind] += alive * block.size
            modules[block.module, kind] += alive * block.size
        return Peak(most, kinds, {key: size for key, size in modules.items() if size})

    def watch(self, model: nn.Module) -> None:
        """Tell apart the model's parameters, and what each module's forward pass makes."""
        for name, module in model.named_modules():
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                self.mark(tensor, "parameters", name)
            for parameter in module.parameters(recurse=False):
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(self._gradient(name))
            module.register_forward_pre_hook(lambda *_, name=name: self._inside.append(name))
            module.register_forward_hook(self._leave, always_call=True)
            self._names[module] = name

    def saved(self) -> Any:
        """A context in which what autograd saves is marked as an activation."""
        return torch.autograd.graph.saved_tensors_hooks(self._save, lambda tensor: tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = self.run(func, args, kwargs or {})
        self.add(tensors(args, kwargs), "batch")  # not seen when it was made: it was there
        kind = "scratch" if kernels.sweeping.get() else ""
        self.add(tensors(result), kind, self._module(args))
        return result

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A step that torch.compile makes faster stays compiled: a kernel is one operation."""
        return True

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        return func(*args, **kwargs)

    def state(self, optimizer: Optimizer, *_: Any) -> None:
        """Tell an optimiser's state from other tensors that were made since the start."""
        for tensor in tree_iter(list(optimizer.state.values())):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata in self._alive:
                self.mark(tensor, "optimizer")

    @contextlib.contextmanager
    def at_work(self, layer: Any) -> Iterator[None]:
        """What an integer layer makes meanwhile is its own; autograd keeps nothing of it.

        The step calls no module, so that its hooks don't run.
        """
        name = self._names.get(layer, "")
        self._inside.append(name)
        try:
            yield
        finally:
            self._inside.pop()
            for kind, tensor in layer.held():
                if kind == "activations":
                    self._keep(tensor)
                else:
                    self.mark(tensor, kind, name)

    def _module(self, args: Any) -> str:
        """The module that runs, else the one whose tensor the operation takes last."""
        if self._inside:
            return self._inside[-1]
        tensors = [x for x in reversed(args) if isinstance(x, Tensor)]
        found = [self._block(x).module for x in tensors if _parts(x) is None]
        return next(filter(None, found), "")

    def _block(self, tensor: Tensor) -> "_Block":
        return self._alive[tensor.untyped_storage()._cdata][1]

    def _save(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()  # with its graph it would keep the graph that keeps it
        self._keep(tensor)
        return tensor

    def _keep(self, tensor: Tensor) -> None:
        self.add([tensor], "batch")
        block = self._block(tensor)
        block.kind = block.kind or "activations"

    def _gradient(self, name: str) -> Callable[[Tensor], None]:
        def accumulated(parameter: Tensor) -> None:
            if parameter.grad is not None:
                self.mark(parameter.grad, "gradients", name)

        return accumulated

    def _leave(self, *_: Any) -> None:
        self._inside.pop()


def tensors(*values: Any) -> Iterator[Tensor]:
    """In an operation's arguments or result; torch's own search takes several times as long."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors(*value)
        elif isinstance(value, dict):
            yield from tensors(*value.values())


def _parts(tensor: Tensor) -> list[Tensor] | None:
    """Of a tensor that has no memory but that of others, those; else None.

    Raises:
        ValueError: its memory can't be seen.
    """
    if is_traceable_wrapper_subclass(tensor):
        names, _ = tensor.__tensor_flatten__()
        return [getattr(tensor, name) for name in names]
    if tensor.layout is torch.strided:
        return None
    if tensor.layout is torch.sparse_coo:
        return [tensor._indices(), tensor._values()]
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return [tensor.crow_indices(), tensor.col_indices(), tensor.values()]
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return [tensor.ccol_indices(), tensor.row_indices(), tensor.values()]
    raise ValueError(
        "expected dense and sparse tensors, whose bytes can be counted, got one of layout "
        f"{tensor.layout}; call its to_dense() first"
    )


class _Block:
    """A storage's size and what it is; empty where not known."""

    def __init__(self, size: int, kind: str, module: str) -> None:
        self.size, self.kind, self.module = size, kind, module


def step_peak(prepare: Prepare, live: LiveBytes | None = None) -> Peak:
    """The peak of a step that ``prepare`` makes, after one that makes the optimiser's state."""
    live = live or LiveBytes()
    with live:
        model, step = prepare()
        live.watch(model)
        for block in live.unmarked():
            block.kind = "batch"
        with live.saved(), phases.at_work(live.at_work):
            started = register_optimizer_step_pre_hook(live.state)
            try:
                step()
            finally:
                started.remove()
            gc.collect()
            for block in live.unmarked():
                block.kind = "optimizer"
            live.restart()
            step()
    return live.at_peak()
