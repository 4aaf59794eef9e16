"""Weights of 16 bits, perturbed without being moved, so that there is nothing to undo.

A perturbation of bfloat16 in place would round, and could not be taken back. So the weights stay as
they are: just before a module runs, its perturbed weights are made in memory of their own, which
stand in their place until it has run. At a time there are those of the modules that run now: of
a deep network, one layer's.

Not every weight is read by the module that owns it: ``nn.MultiheadAttention`` reads its
projection's, a closure may read any, a compiled module runs no hooks. Such weights are perturbed
for the whole pass. Who reads what is seen in the first step, in train mode and in eval mode, and
holds from then on: a read is answered by the perturbed weight the first time too.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ezo import kernels
from ezo.kernels import Number, Place

# What is asked of a tensor without reading its numbers.
_ASIDE = {
    *("shape", "dtype", "device", "requires_grad", "grad", "is_leaf", "ndim", "layout", "grad_fn"),
    *("is_cuda", "is_cpu", "is_sparse", "is_quantized", "is_meta", "names", "itemsize", "nbytes"),
    *("size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "element_size"),
    *("requires_grad_", "__hash__", "is_complex", "get_device", "__len__", "data_ptr", "__set__"),
}


class Readers:
    """Which modules read which parameters of a model; kept from step to step."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.everywhere: set[int] = set()  # parameters, by id, that are perturbed for a whole pass
        self.seen: set[bool] = set()  # the model's modes in which a step was watched

    def owners(self, ids: set[int]) -> list[tuple[nn.Module, list[tuple[str, nn.Parameter]]]]:
        """Modules that run hooks, with those of these parameters that they own."""
        found = []
        for module in self._eager(self.model):
            own = [(n, p) for n, p in module._parameters.items() if p is not None and id(p) in ids]
            if own:
                found.append((module, own))
        return found

    def _eager(self, module: nn.Module) -> Iterator[nn.Module]:
        kinds = (torch.jit.ScriptModule, getattr(torch._dynamo, "OptimizedModule", ()))
        if isinstance(module, kinds) or getattr(module, "_compiled_call_impl", None) is not None:
            self.everywhere.update(id(p) for p in module.parameters())
            return
        yield module
        for child in module.children():
            yield from self._eager(child)


class Unmoved:
    """The perturbation e = eps z of some weights of 16 bits. It lives for one step.

    Args:
        parameters: each with its tensor number in the noise stream and its eps.
        padding: rows of parameters that are held.
    """

    def __init__(
        self,
        readers: Readers,
        parameters: Sequence[tuple[nn.Parameter, int, Number]],
        noise: str,
        padding: dict[Tensor, int],
    ) -> None:
        self._readers, self._noise, self._padding = readers, noise, padding
        self._of = {id(p): (t, eps) for p, t, eps in parameters}
        self._parameters = [p for p, _, _ in parameters]
        self._place: Place = (0, 0, 0)
        self._times = 0.0
        self._running: dict[nn.Module, tuple[int, dict[str, Any]]] = {}  # depth, what was there
        self._held: dict[nn.Parameter, Tensor] = {}  # and where it lies

    @contextlib.contextmanager
    def attached(self) -> Iterator[None]:
        """Within, what runs meets the perturbed weights of where this stands."""
        with contextlib.ExitStack() as stack:
            for module, own in self._readers.owners(set(self._of)):
                before = module.register_forward_pre_hook(self._enter(own), prepend=True)
                after = module.register_forward_hook(self._leave, always_call=True)
                stack.callback(before.remove)
                stack.callback(after.remove)
            stack.callback(self._end)
            mode = self._readers.model.training
            if mode not in self._readers.seen:
                stack.enter_context(_Watch(self._hold, set(self._of)))
            yield
            self._readers.seen.add(mode)

    def move(self, place: Place, times: float) -> None:
        """The next pass is at theta + times e."""
        self._end()
        self._place, self._times = place, times
        if times:
            for p in self._parameters:
                if id(p) in self._readers.everywhere:
                    self._hold(p)

    def _enter(self, own: list[tuple[str, nn.Parameter]]) -> Callable[..., None]:
        def enter(module: nn.Module, inputs: Any) -> None:
            depth, there = self._running.get(module, (0, {}))
            if not depth and self._times:
                mine = [(n, p) for n, p in own if p not in self._held]
                new = self._perturbed([p for _, p in mine]) if mine else []
                for (name, p), x in zip(mine, new, strict=True):
                    there[name] = p
                    module._parameters[name] = nn.Parameter(x, requires_grad=False)
            self._running[module] = depth + 1, there

        return enter

    def _leave(self, module: nn.Module, inputs: Any, output: Any) -> None:
        depth, there = self._running.pop(module)
        if depth > 1:
            self._running[module] = depth - 1, there
        else:
            module._parameters.update(there)

    def _hold(self, p: nn.Parameter) -> None:
        """Perturb a parameter itself, until the pass ends."""
        self._readers.everywhere.add(id(p))
        if self._times and p not in self._held:
            (new,) = self._perturbed([p])
            with torch._C.DisableTorchFunction():
                self._held[p] = p.data
                p.data = new

    def _end(self) -> None:
        for module, (_, there) in self._running.items():
            module._parameters.update(there)
        for p, data in self._held.items():
            p.data = data
        self._running, self._held = {}, {}

    def _perturbed(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        """New tensors, contiguous; those of one type and eps are made together."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            groups: dict[Any, list[tuple[int, Tensor, Tensor]]] = {}
            found = []
            for p in parameters:
                theta, (t, eps) = p.detach(), self._of[id(p)]
                new = torch.empty_like(theta, memory_format=torch.contiguous_format)
                groups.setdefault((p.dtype, p.device, eps), []).append((t, theta, new))
                found.append(new)
            for (_, _, eps), some in groups.items():
                numbered, results = [(t, theta) for t, theta, _ in some], [x for *_, x in some]
                kernels.perturbed(numbered, results, self._noise, self._place, (eps, self._times))
            for p, new in zip(parameters, found, strict=True):
                if p in self._padding:
                    new[self._padding[p]] = p.detach()[self._padding[p]]
            return found


class _Watch(TorchFunctionMode):
    """Tells of parameters, by id, that something reads which is not perturbed for it."""

    def __init__(self, tell: Callable[[Any], None], watched: set[int]) -> None:
        super().__init__()
        self._tell, self._watched = tell, watched

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(getattr(func, "__self__", None), "__name__", func.__name__)
        if name not in _ASIDE and func.__name__ not in _ASIDE:
            for x in tree_leaves((args, kwargs)):
                if id(x) in self._watched:
                    self._tell(x)
        return func(*args, **(kwargs or {}))
