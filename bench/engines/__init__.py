"""Engines that run many pieces of work side by side, one file each.

A file defines ``NAMES``, ``NEEDS``, the packages that it imports (the first is also its extra), and

    run(work, tasks, jobs, where) -> iterator of (number of the task, result)

in the order in which they end; maybe ``check(where)``, which raises a ValueError where that place
can't be worked in. ``where`` is what follows the engine's name and a colon, maybe
nothing: an address, a cluster. ``work`` raises nothing and can be pickled; a task whose worker is
lost is tried again, `TRIES` times in all, and then its result is a `Lost`. Results come back to the
driver; what it keeps of them it alone writes. The docstring's first line describes the engine.
"""

import functools
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

TRIES = 3
USUAL = "joblib"
HELP = (
    "what runs them side by side: joblib, processes here; dask, a local cluster, or "
    "dask:tcp://HOST:PORT, one that runs; slurm, or slurm:PARTITION; slurm:local, the same jobs as "
    "processes here"
)


@dataclass(frozen=True)
class Lost:
    """The result of a task whose workers were lost again and again, or that could not be sent."""

    note: str


def names() -> list[str]:
    """Every engine's names."""
    return sorted(_files())


def check(engine: str) -> None:
    """Before any work.

    Raises:
        ValueError: there is no such engine, or not here.
        ModuleNotFoundError: what it needs is not installed.
    """
    file = _found(engine)
    for package in file.NEEDS:
        if importlib.util.find_spec(package) is None:
            extra = file.NEEDS[0]
            raise ModuleNotFoundError(
                f"expected the packages of the extra {extra}, got no {package}; in the clone: "
                f"pip install -e '.[{extra}]' -c constraints.txt"
            )
    if hasattr(file, "check"):
        file.check(engine.partition(":")[2])


def run(
    engine: str, work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Do some work on each task; yield (number of the task, result) when it ends.

    An exception of a task is a `Lost` too, and the others go on.

    Args:
        engine: its name, maybe with a colon and what it is given.
        work: of one task; it can be pickled.
        tasks: that can be pickled.
        jobs: tasks at a time; where there is a cluster it says.
    """
    file = _found(engine)
    yield from file.run(functools.partial(_told, work), tasks, jobs, engine.partition(":")[2])


def _told(work: Callable[[Any], Any], task: Any) -> Any:
    try:
        return work(task)
    except Exception as error:
        return Lost(f"{type(error).__name__}: {error}")


def _files() -> dict[str, ModuleType]:
    files = [
        importlib.import_module(f"{__name__}.{i.name}") for i in pkgutil.iter_modules(__path__)
    ]
    return {name: file for file in files for name in file.NAMES}


def _found(engine: str) -> ModuleType:
    name, files = engine.partition(":")[0], _files()
    if name not in files:
        raise ValueError(f"unknown engine '{name}'; known: {', '.join(sorted(files))}")
    return files[name]
