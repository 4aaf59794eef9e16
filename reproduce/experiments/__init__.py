"""Experiments, one file each: runs that are judged together.

A file defines ``KIND``, as what its runs are judged (a name in `reproduce.select.KINDS`, or
``sensitivity``), and ``runs(...) -> list[Run]``. It names its models, data, methods, precisions and
seeds itself, so that no file beside it can change them; what a preset may make smaller are
arguments with defaults. The file's name, with hyphens, is the experiment's. A preset runs those
that it names (`reproduce.presets`).
"""

import functools
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any, NamedTuple

from ezo.train import Run


class Experiment(NamedTuple):
    """Runs that are judged together.

    Attributes:
        kind: as what; the field ``experiment`` of their rows.
        runs: makes them.
    """

    kind: str
    runs: Callable[[], list[Run]]


def names() -> list[str]:
    """Every experiment's name, sorted."""
    stems = (info.name for info in pkgutil.iter_modules(__path__))
    return sorted(stem.replace("_", "-") for stem in stems if not stem.startswith("_"))


def find(name: str, **size: Any) -> Experiment:
    """The experiment of a name.

    Args:
        name: one of `names`.
        size: arguments of its ``runs``, in place of their defaults.

    Raises:
        ValueError: there is none; the message lists the known names.
    """
    if name not in names():
        raise ValueError(f"unknown experiment '{name}'; known: {', '.join(names())}")
    module = importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
    return Experiment(module.KIND, functools.partial(module.runs, **size))
