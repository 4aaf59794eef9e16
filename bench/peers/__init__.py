"""What ours is measured beside: other projects' steps, one file each.

A file defines ``NAMES`` and ``step(name, model, closure)``, which returns the function that does
one step and returns the loss; the closure computes the loss and leaves ``backward`` to the step.
A peer whose package is not installed raises `ModuleNotFoundError` there. One that does ZO steps
also defines ``make_step(model, lr, eps, seed)`` for `ezo.conformance`.
"""

import importlib
import pkgutil
from types import ModuleType


def members() -> list[ModuleType]:
    """Every file of this folder."""
    return [
        importlib.import_module(f"{__name__}.{info.name}")
        for info in pkgutil.iter_modules(__path__)
    ]


def names() -> list[str]:
    """All names of peers."""
    return [name for module in members() for name in module.NAMES]


def find(name: str) -> ModuleType:
    """The file that answers to ``name``."""
    for module in members():
        if name in module.NAMES:
            return module
    raise ValueError(f"unknown peer '{name}'; known: {', '.join(names())}")
