"""One process at a time works in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from ezo.files import clean

LOCK = "lock"


@contextlib.contextmanager
def alone_in(folder: Path, name: str = LOCK, *, wait: bool = False) -> Iterator[None]:
    """Within, ``folder`` is held by this process; it is made where there is none.

    What a process that was killed had half written there is removed.

    Args:
        folder: that is worked in.
        name: of the lock's file there.
        wait: until another process has ended.

    Raises:
        ValueError: another process works there, or it can't be written to.
    """
    try:
        lock = FileLock(folder / name)
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ValueError(
            f"expected a folder in which nobody else works, got {folder}: another process works "
            "here; wait until it ends, or give another --out"
        ) from error
    except (OSError, ValueError) as error:  # the latter of a name that can't be one
        raise ValueError(
            f"expected a folder that can be written to, got {folder}: "
            f"{getattr(error, 'strerror', error)}; give another --out"
        ) from error
    try:
        clean(folder)
        yield
    finally:
        lock.release()


def held(folder: Path) -> bool:
    """Whether another process works in a folder."""
    if not (folder / LOCK).exists():
        return False
    try:
        with FileLock(folder / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # nothing can be written there
        return False
