"""Find models, data sets, methods and more: a file in a kind's folder is one, by being there.

A file of a kind defines ``NAMES``, the names it answers to, and the function of its kind
(``build``, ``load``, ``parts``, ``make_step``, ``difference``: see `KINDS`). A name may hold
one placeholder for an integer, ``elastic-<k>``; the function gets the name as the caller wrote it,
and `number` reads the integer. The docstring's first line is about the first name; ``ABOUT``, a
dict of lines by name, about the others, if there are any.
Nothing is registered anywhere: to add a model, write ``ezo/models/yours.py``.

A package of another project adds such a file by an entry point, whose group is the package of the
kind: ``[project.entry-points."ezo.models"]`` with ``yours = "your_package.your_module"``.
"""

import functools
import importlib
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType

KINDS = {
    "model": "ezo.models",
    "data": "ezo.data",
    "method": "ezo.methods",
    "precision": "ezo.precisions",
    "estimator": "ezo.estimators",
}
OF_A_RUN = ("model", "data", "method", "precision")  # a training run names one of each
# What answers to names that no file lists, and how these look.
OF_THE_USER = {
    "model": ("ezo.models._imported", "package.module:function"),
    "data": ("ezo.data._own", "a folder of images, a file.npz or a file.csv"),
}


def members(kind: str) -> Iterator[ModuleType]:
    """Every member of a kind of `KINDS`, or of a package, in the order of their file names.

    Those of other distributions come last.

    Raises:
        ValueError: one of those can't be imported, or is no member, or has a name that is taken.
    """
    package = importlib.import_module(KINDS.get(kind, kind))
    taken: set[str] = set()
    for info in sorted(pkgutil.iter_modules(package.__path__), key=lambda info: info.name):
        if not info.name.startswith("_"):
            module = importlib.import_module(f"{package.__name__}.{info.name}")
            taken.update(getattr(module, "NAMES", ()))
            yield module
    if package.__name__ in KINDS.values():
        for entry, module in _installed(package.__name__, tuple(sys.path)):
            if same := sorted(taken.intersection(module.NAMES)):
                got = f"{', '.join(same)}, which another file has"
                raise _bad(entry, "names of its own", got)
            taken.update(module.NAMES)
            yield module


@functools.cache
def _installed(group: str, path: tuple[str, ...]) -> list[tuple[EntryPoint, ModuleType]]:
    """The entry points of a group, with what they name; read once for each ``sys.path``."""
    found: dict[str, tuple[EntryPoint, ModuleType]] = {}
    for entry in sorted(entry_points(group=group), key=lambda entry: (entry.name, entry.value)):
        try:
            module = entry.load()
            if not isinstance(module, ModuleType) or not isinstance(module.NAMES, tuple):
                raise TypeError(f"{module!r:.60}")
        except Exception as error:  # of foreign code, at import
            got = f"{type(error).__name__}: {error}"
            raise _bad(entry, f"a module with NAMES, as a file of {group} has", got) from error
        found[entry.value] = entry, module
    return list(found.values())


def _bad(entry: EntryPoint, expected: str, got: str) -> ValueError:
    of = entry.dist.name if entry.dist else "?"
    return ValueError(
        f"entry point {entry.value} of {of}: expected {expected}, got {got}; mend or uninstall {of}"
    )


def names(kind: str) -> list[str]:
    """All names of a kind, placeholders as written.

    >>> "elastic-<k>" in names("method")
    True
    """
    return [name for module in members(kind) for name in module.NAMES]


def described(module: ModuleType) -> list[tuple[str, str]]:
    """A file's names, each with a line about it: the docstring's first, and ``ABOUT``'s of others.

    >>> from ezo.precisions import int8
    >>> described(int8)[1]
    ('int8*', 'int8 with its loss in float64.')
    """
    first, *others = module.NAMES
    about = (module.__doc__ or "").strip().partition("\n")[0]
    told: dict[str, str] = getattr(module, "ABOUT", {})
    return [(first, about), *((name, told.get(name, f"see {first}")) for name in others)]


def find(kind: str, name: str) -> ModuleType:
    """The file that answers to ``name``.

    Raises:
        ValueError: no file does; the message lists the known names.
    """
    for module in members(kind):
        if any(_pattern(known).fullmatch(name) for known in module.NAMES):
            return module
    known = ", ".join(names(kind))
    if kind in OF_THE_USER:
        place, form = OF_THE_USER[kind]
        if (module := importlib.import_module(place)).answers(name):
            return module
        known += f", or {form}"
    raise ValueError(f"unknown {kind} '{name}'; known: {known}")


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
