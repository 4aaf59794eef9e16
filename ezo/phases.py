"""The ranges of a step: who wants to time them listens, and nobody else pays for it.

A step emits ``perturb`` (the ZO weights move), ``forward`` (the closure: a pass and its loss),
``backward`` and ``update``; none lies within another.
"""

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

PHASES = ("perturb", "forward", "backward", "update")

Listener = Callable[[str], AbstractContextManager[object]]
_nothing = contextlib.nullcontext()
_listener: Listener | None = None


def phase(name: str) -> AbstractContextManager[object]:
    """The range ``name`` of `PHASES`, entered by the step around its work."""
    return _nothing if _listener is None else _listener(name)


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Within, every range of every step is also entered as ``listener(name)``.

    >>> seen = []
    >>> with listening(lambda name: contextlib.nullcontext(seen.append(name))), phase("forward"):
    ...     pass
    >>> seen
    ['forward']
    """
    global _listener
    before, _listener = _listener, listener
    try:
        yield
    finally:
        _listener = before


Worker = Callable[[Any], AbstractContextManager[object]]
worker: Worker | None = None  # of whom `at_work` tells


@contextlib.contextmanager
def at_work(listener: Worker) -> Iterator[None]:
    """Within, a layer that works where no module's hooks run enters ``listener(layer)``."""
    global worker
    before, worker = worker, listener
    try:
        yield
    finally:
        worker = before
