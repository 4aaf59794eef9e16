"""Do the last layers also run last? A split counts layers in the order of registration."""

import warnings
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


class Order:
    """Within, which may be entered several times, ZO layers are watched in the passes that run.

    Where one is given an activation that requires a gradient, it runs behind a BP layer, and BP
    goes back through it: its activations are held, which a split should avoid. On leaving, a
    warning names such layers.

    Args:
        model: whose passes run.
        zo: parameters of its ZO part.
        bp: the split as it was asked for; any but a number is taken as meant.
    """

    def __init__(self, model: nn.Module, zo: Iterable[nn.Parameter], bp: object) -> None:
        self._model, self._zo, self._bp = model, {id(p) for p in zo}, bp
        self._late: dict[str, None] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> None:
        modules = list(self._model.named_modules())
        compiled = any(m._compiled_call_impl is not None for _, m in modules)  # hooks recompile it
        compiled = compiled or type(self._model).__name__ == "OptimizedModule"
        if type(self._bp) is not int or not self._bp or compiled:
            return
        for name, module in modules:
            if any(id(p) in self._zo for p in module.parameters(recurse=False)):
                self._hooks.append(
                    module.register_forward_pre_hook(self._noting(name), with_kwargs=True)
                )

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, args: Any, kwargs: Any) -> None:
            given = (x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
            if torch.is_grad_enabled() and any(x.requires_grad for x in given):
                self._late[name] = None

        return note

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        late, self._late, self._hooks = [*self._late], {}, []
        if late:
            warnings.warn(
                f"bp={self._bp} counts layers as they were registered, and others run behind them "
                f"({', '.join(late[:4])}{', ...' if late[4:] else ''}): BP goes back through those "
                "and holds their activations. Register layers in the order in which they run, or "
                "name the one that runs last: bp='its name'",
                stacklevel=4,
            )
