"""Forward passes where no gradient is recorded: a ReLU in place, maxima without indices."""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

# Layers whose output is a tensor of its own: what follows may write in its place.
_MAKE_ANEW = {
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.LayerNorm, nn.GroupNorm),
}


class Now(threading.local):
    """Where streaming stands in this thread."""

    first: int | None = None  # of the chunk; None outside
    checking = step = False
    within = streamed = False  # a forward that is not streamed itself; whether one within was
    fresh: Tensor | None = None  # nobody else's: may be written to
    gathered: tuple[Callable[[], Any], Callable[[], Any]] = (lambda: None, lambda: None)


now = Now()


class Forward:
    """A module's forward in place of its own. Copies and pickles with the module."""

    def __init__(self, module: nn.Module) -> None:
        self._module, self._own = module, vars(module).get("forward")
        module.forward = self  # type: ignore[assignment]

    def remove(self) -> None:
        del self._module.forward
        if self._own is not None:
            self._module.forward = self._own

    def before(self, *args: Any, **kwargs: Any) -> Any:
        """As without streaming."""
        if self._own is not None:
            return self._own(*args, **kwargs)
        return type(self._module).forward(self._module, *args, **kwargs)


class ReLU(Forward):
    def __call__(self, x: Tensor) -> Tensor:
        mine, now.fresh = x is now.fresh, None
        return x.relu_() if mine else self.before(x)


class MaxPool2d(Forward):
    """Maxima of blocks that don't overlap, without indices, which nobody needs here."""

    def __call__(self, x: Tensor) -> Tensor:
        of: Any = self._module
        form = of.kernel_size, of.stride, of.padding, of.dilation, of.ceil_mode, of.return_indices
        size = _block(*form)
        kept = not isinstance(x, Tensor) or (x.requires_grad and torch.is_grad_enabled())
        if size is None or kept:
            return self.before(x)
        height, width = size
        rows, columns = x.shape[-2] // height * height, x.shape[-1] // width * width
        if not rows or not columns:
            return self.before(x)  # torch's own error
        first, second, *rest = [
            x[..., i:rows:height, j:columns:width] for i in range(height) for j in range(width)
        ]
        y = torch.maximum(first, second)
        for other in rest:
            torch.maximum(y, other, out=y)
        return y


@functools.cache
def _block(kernel: Any, stride: Any, padding: Any, dilation: Any, *more: bool) -> Any:
    """The size of blocks that don't overlap, of two numbers at least; None of others."""

    def pair(size: Any) -> tuple[int, int]:
        return (size, size) if isinstance(size, int) else size

    apart = (pair(stride), pair(padding), pair(dilation)) == (pair(kernel), (0, 0), (1, 1))
    return pair(kernel) if apart and not any(more) and pair(kernel) != (1, 1) else None


def in_a_row(modules: Sequence[nn.Module], x: Any) -> Any:
    """Modules in a row, of which a ReLU may write where its input stands."""
    last = None
    for module in modules:
        if type(module) is nn.ReLU and _is_nobody_elses(last, module, x):
            now.fresh = x
        x = module(x)
        last = module
    return x


def _is_nobody_elses(made_by: nn.Module | None, taken_by: nn.Module, x: Any) -> bool:
    """Whether ``x`` is a tensor of its own that no hook of another's can have kept."""
    if made_by is None or type(made_by) not in _MAKE_ANEW or not isinstance(x, Tensor):
        return False
    if x.requires_grad and torch.is_grad_enabled():
        return False
    every = nn.modules.module
    for hooks in (
        *(made_by._forward_hooks, taken_by._forward_hooks, taken_by._forward_pre_hooks),
        *(every._global_forward_hooks, every._global_forward_pre_hooks),
    ):
        for hook in hooks.values() if hooks else ():
            if getattr(hook, "__module__", "").partition(".")[0] != "ezo":
                return False
    if x.is_contiguous():
        return True
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
