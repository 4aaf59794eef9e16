"""Streaming: layers that keep nothing for a backward pass run a few examples at a time.

What zeroth order trains, what is frozen and what only predicts records no gradient, so its
activations are needed until the next layer's alone. With `stream` such layers take the batch in
chunks, and their output is gathered:

    for first in 0, chunk, 2 chunk, ...
        output[first : first + chunk] = layers(x[first : first + chunk])

so that a pass holds the activations of one chunk, and its output. The layers that backpropagation
trains then run on the whole output, as ever. Two more things cost nothing where no gradient is
recorded: a ReLU after a layer that made its input anew writes in that place, and a maximum over
blocks keeps no indices.

A result differs from the whole batch's as far as torch's operators round otherwise for another
number of examples; tests hold it to 1e-5 of the largest output in float32.
"""

import functools
import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_iter, tree_map_only, tree_unflatten

from ezo import check
from ezo.apart import expect_apart
from ezo.unrecorded import Forward, MaxPool2d, ReLU, in_a_row, now

Model = TypeVar("Model", bound=nn.Module)
Given = tuple[tuple[Any, ...], dict[str, Any]]  # a module's arguments
Run = Callable[..., Any]


def stream(model: Model, chunk: int | None) -> Model:
    """Let a model run what records no gradient ``chunk`` examples at a time; returns the model.

    In a step of `ezo.ElasticZO` that is what ZO trains and what is frozen; with gradients off, so
    in evaluation, it is all of the model. Where BP begins within an ``nn.Sequential``, its modules
    before that are streamed together. Where it begins within a forward of another kind, each module
    within is streamed that has modules of its own and lies before: put the front into one module
    to have it streamed as one. A warning says where nothing was.

    Examples stand in the first dimension of the first tensor that a module is given, and of each
    other one as long; the rest goes to each chunk as it is. Noise of nodes and random numbers are
    the same in every pass of a step; dropout's masks are others than without streaming.

    Args:
        model: any module whose examples don't meet. It is changed in place; copies and pickles of
            it are streamed too. On a module of one's choice within a model it serves that alone.
        chunk: examples at a time, 1 or more; None to run whole again.

    Raises:
        ValueError: when it runs: batch norm that would take its statistics from a chunk, by name;
            or a module in which examples meet or that counts its calls in a buffer, as its first
            chunk shows where no random numbers are drawn.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     stream(model, chunk=2)(torch.ones(5, 4)).shape
    torch.Size([5, 2])
    """
    if not isinstance(model, nn.Module):
        raise ValueError(f"expected a module to stream, got {type(model).__name__}")
    for module in model.modules():
        if isinstance(found := vars(module).get("forward"), Forward):
            found.remove()
    if chunk is None:
        return model
    check.integer("chunk", chunk, 1)
    for name, module in model.named_modules():
        if module is model or module._modules:
            _Streamed(module, name, int(chunk))
        elif type(module) in (nn.ReLU, nn.MaxPool2d):
            (ReLU if type(module) is nn.ReLU else MaxPool2d)(module)
    return model


def first() -> int:
    """Where in the batch the examples stand that the running module sees: its chunk's first."""
    return now.first or 0


def checking() -> bool:
    """Whether the pass that runs is none of the caller's, but looks whether examples meet."""
    return now.checking


def is_end_of(part: Tensor | None, whole: Tensor) -> bool:
    """Whether ``part`` is ``whole``, or the last chunk that was gathered in it."""
    of, end = now.gathered
    return part is not None and (part is whole or (of() is whole and end() is part))


class InStep:
    """Within, the layers with a parameter that requires a gradient run whole in every pass.

    So the passes of a step round alike, also where only one of them takes a gradient.
    """

    def __enter__(self) -> None:
        self._before, now.step = now.step, True

    def __exit__(self, *_: object) -> None:
        now.step = self._before


class _Streamed(Forward):
    """A container's, or a whole model's."""

    def __init__(self, module: nn.Module, name: str, chunk: int) -> None:
        own = vars(module).get("forward", type(module).forward)
        self._sequential = own is nn.Sequential.forward
        super().__init__(module)
        self._name, self._chunk = name, chunk
        every = module.named_modules(prefix=name)
        self._norms = [(m, own) for own, m in every if isinstance(m, _BatchNorm)]
        self._seen: set[tuple[bool, int]] = set()  # that examples don't meet
        self._warned = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        n = _examples(args, kwargs)
        if n is None:
            return self.before(*args, **kwargs)
        if now.first is not None:
            return self._inside(*args, **kwargs)
        if _free([self._module], (args, kwargs)):
            return self._in_chunks(n, self._inside, [self._module], (args, kwargs))
        if outermost := not now.within:
            now.within, now.streamed = True, False
        try:
            if self._sequential and len(args) == 1:
                return self._front_in_chunks(n, *args)
            return self.before(*args, **kwargs)
        finally:
            if outermost:
                now.within = False
                if now.step and not now.streamed:
                    self._warn()

    def _inside(self, *args: Any, **kwargs: Any) -> Any:
        """Of examples that are few already."""
        if self._sequential and len(args) == 1:
            return in_a_row(list(self._module.children()), *args)
        return self.before(*args, **kwargs)

    def _front_in_chunks(self, n: int, x: Any) -> Any:
        """The modules before the first with a gradient in chunks, the others whole."""
        children = list(self._module.children())
        front = 0
        while _free(children[front : front + 1], x):
            front += 1
        if any(True for child in children[:front] for _ in child.parameters()):
            before = children[:front]
            x = self._in_chunks(n, lambda x: in_a_row(before, x), before, ((x,), {}))
        else:
            front = 0
        for child in children[front:]:
            x = child(x)
        return x

    def _in_chunks(self, n: int, run: Run, modules: Sequence[nn.Module], given: Given) -> Any:
        self._refuse_batch_norm(modules)
        if (seen := (self._module.training, len(modules))) not in self._seen:
            self._expect_apart(n, run, modules, given)
            self._seen.add(seen)
        now.streamed = True
        gathered: Any = None
        for begin in range(0, n, self._chunk):
            end = min(begin + self._chunk, n)
            now.first = begin
            try:
                y = _run_part(run, given, n, begin, end)
            finally:
                now.first = None
            if self._chunk >= n:
                return y
            gathered = self._gather(gathered, y, n, begin, end)
            del y
        return gathered

    def _gather(self, whole: Any, part: Any, n: int, begin: int, end: int) -> Any:
        """The outputs of all examples, with these ones'."""
        if isinstance(part, Tensor):
            if whole is None:
                whole = self._room(part, n, end - begin)
            whole[begin:end] = part
            now.gathered = weakref.ref(whole), weakref.ref(part)
            return whole
        leaves, form = tree_flatten(part)
        if whole is None:
            whole = tree_unflatten([self._room(leaf, n, end - begin) for leaf in leaves], form)
        for of, leaf in zip(tree_flatten(whole)[0], leaves, strict=True):
            if isinstance(leaf, Tensor):
                of[begin:end] = leaf
        return whole

    def _room(self, part: Any, n: int, examples: int) -> Any:
        """For an output of ``n`` examples, laid out as a chunk's."""
        if not isinstance(part, Tensor):
            return part
        if part.dim() == 0 or len(part) != examples:
            raise ValueError(
                f"expected an output of {self._what()} with its examples first, "
                f"({examples}, ...), to gather the chunks', got {tuple(part.shape)}; leave this "
                "module out of stream(), or take what joins examples, a loss for one, out of it"
            )
        shape = (n, *part.shape[1:])
        last = part.dim() == 4 and not part.is_contiguous()
        if last and part.is_contiguous(memory_format=torch.channels_last):
            return part.new_empty(0).new_empty(shape).to(memory_format=torch.channels_last)
        return part.new_empty(shape)

    def _refuse_batch_norm(self, modules: Sequence[nn.Module]) -> None:
        """Its statistics would be a chunk's."""
        found = [(m, name) for m, name in self._norms if m.training or not m.track_running_stats]
        within = {m for module in modules for m in module.modules()} if found else ()
        for m, name in found:
            if m in within:
                raise ValueError(
                    f"expected layers whose examples don't meet, to stream them, got '{name}', "
                    f"{type(m).__name__} in training, whose statistics are of the whole batch; "
                    "give it to BP, call its eval(), or run whole: ezo.stream(model, None)"
                )

    def _expect_apart(self, n: int, run: Run, modules: Sequence[nn.Module], given: Given) -> None:
        within = {m for module in modules for m in module.modules()}
        names = {m: name for name, m in self._module.named_modules(prefix=self._name)}

        now.checking, now.first = True, 0
        try:
            few = min(n, max(self._chunk, 2))
            part = functools.partial(_run_part, run, given, n)
            expect_apart(part, few, {m: names[m] for m in names if m in within}, self._what())
        finally:
            now.checking, now.first = False, None

    def _warn(self) -> None:
        if self._warned or not any(not p.requires_grad for p in self._module.parameters()):
            return
        self._warned = True
        warnings.warn(
            f"nothing of {self._what()} was streamed, as its forward joins layers that BP trains "
            "and others; put those before BP into a module of their own, an nn.Sequential for one",
            stacklevel=2,
        )

    def _what(self) -> str:
        return f"'{self._name}'" if self._name else f"the model, {type(self._module).__name__},"


def _examples(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
    """The length of the first tensor; None where there is none."""
    x = args[0] if args else None
    if not isinstance(x, Tensor):
        x = next((t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)), None)
    return len(x) if x is not None and x.dim() else None


def _free(modules: Sequence[nn.Module], given: Any) -> bool:
    """Whether modules, one at least, and their input record no gradient."""
    if not modules:
        return False
    if not torch.is_grad_enabled() and not now.step:
        return True
    if any(p.requires_grad for m in modules for p in m.parameters()):
        return False
    if not torch.is_grad_enabled():
        return True
    return not any(t.requires_grad for t in tree_iter(given) if isinstance(t, Tensor))


def _run_part(run: Run, given: Given, n: int, begin: int, end: int) -> Any:
    """On some examples of all tensors that have ``n``."""
    args, kwargs = given
    if len(args) == 1 and isinstance(args[0], Tensor) and not kwargs:
        return run(args[0][begin:end])

    def of(t: Tensor) -> Tensor:
        return t[begin:end] if t.dim() and len(t) == n else t

    args, kwargs = tree_map_only(Tensor, of, given)
    return run(*args, **kwargs)
