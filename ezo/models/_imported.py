"""A model of the user's: ``package.module:function``, found as Python finds modules."""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable
from typing import Any

from torch import nn

INPUT = None  # whatever the data is
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


def answers(name: str) -> bool:
    """Whether a name is ``package.module:function``."""
    return _NAME.fullmatch(name) is not None


def build(name: str, classes: int, channels: int, size: tuple[int, ...] | None = None) -> nn.Module:
    """Call the function, or class, with those of these that it has a parameter for.

    ``classes`` or ``num_classes``; ``channels``, ``in_channels`` or ``features``: of an image, a
    point or a row of numbers; ``size``: (height, width), or None. The working directory is looked
    into first.

    Raises:
        ValueError: there is no such function, it needs more, or gives no module.
    """
    function = _found(name)
    offered = {
        **dict.fromkeys(("classes", "num_classes"), classes),
        **dict.fromkeys(("channels", "in_channels", "features"), channels),
        "size": size,
    }
    known = inspect.signature(function).parameters
    needed = [
        p.name
        for p in known.values()
        if p.default is p.empty
        and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
        and (p.name not in offered or p.kind is p.POSITIONAL_ONLY)
    ]
    if needed:
        raise ValueError(
            f"expected {name} to need none but {', '.join(offered)}, got one that needs "
            f"{', '.join(needed)}; give a function that calls it with those"
        )
    model = function(**{of: value for of, value in offered.items() if of in known})
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected {name} to return a torch.nn.Module, got {type(model).__name__}; return the "
            "model"
        )
    return model


def _found(name: str) -> Callable[..., Any]:
    module, _, path = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` has it
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # of what it imports
        raise ValueError(
            f"expected a module {module} for --model {name}, got none; run in the folder where it "
            "lies, or install it"
        ) from error
    for part in path.split("."):
        if not hasattr(found, part):
            raise ValueError(
                f"expected {path} in {module}, got none; give a function that is there"
            )
        found = getattr(found, part)
    if not callable(found) or isinstance(found, nn.Module):
        raise ValueError(
            f"expected {name} to be a function or a class that makes a model, got "
            f"{type(found).__name__}; write a function that returns it"
        )
    return found
