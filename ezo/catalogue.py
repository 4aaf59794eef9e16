"""Find models, data sets, methods and more: a file in a kind's folder is one, by being there.

A file of a kind defines ``NAMES``, the names it answers to, and the function of its kind
(``build``, ``load``, ``parts``, ``make_step``, ``difference``: see `KINDS`). A name may hold
one placeholder for an integer, ``elastic-<k>``; the function gets the name as the caller wrote it,
and `number` reads the integer.
Nothing is registered anywhere: to add a model, write ``ezo/models/yours.py``.
"""

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator
from types import ModuleType

KINDS = {
    "model": "ezo.models",
    "data": "ezo.data",
    "method": "ezo.methods",
    "precision": "ezo.precisions",
    "estimator": "ezo.estimators",
}
OF_A_RUN = ("model", "data", "method", "precision")  # a training run names one of each


def members(kind: str) -> Iterator[ModuleType]:
    """Every member of a kind of `KINDS`, or of a package, in the order of their file names."""
    package = importlib.import_module(KINDS.get(kind, kind))
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            yield importlib.import_module(f"{package.__name__}.{info.name}")


def names(kind: str) -> list[str]:
    """All names of a kind, placeholders as written.

    >>> "elastic-<k>" in names("method")
    True
    """
    return [name for module in members(kind) for name in module.NAMES]


def find(kind: str, name: str) -> ModuleType:
    """The file that answers to ``name``.

    Raises:
        ValueError: no file does; the message lists the known names.
    """
    for module in members(kind):
        if any(_pattern(known).fullmatch(name) for known in module.NAMES):
            return module
    raise ValueError(f"unknown {kind} '{name}'; known: {', '.join(names(kind))}")


def expand(methods: Iterable[str], layers: int) -> list[str]:
    """Methods, with ``elastic-*`` as every split point of a model, 1 to ``layers`` - 1.

    Raises:
        ValueError: a method is unknown.

    >>> expand(["full-zo", "elastic-*"], layers=3)
    ['full-zo', 'elastic-1', 'elastic-2']
    """
    found = []
    for method in methods:
        begin, star, _ = method.partition("*")
        found += [f"{begin}{k}" for k in range(1, layers)] if star else [method]
        find("method", f"{begin}1" if star else method)
    return found


def number(name: str) -> int:
    """The integer that a name ends in.

    >>> number("elastic-2")
    2
    """
    found = re.search(r"(\d+)$", name)
    if found is None:
        raise ValueError(f"expected a name that ends in an integer, got '{name}'")
    return int(found.group(1))


def _pattern(known: str) -> re.Pattern[str]:
    return re.compile(
        re.sub(r"<\w+>", r"\\d+", re.escape(known).replace(r"\<", "<").replace(r"\>", ">"))
    )
