"""One process at a time works in a folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = "lock"


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within, ``folder`` is held by this process; it is made where there is none.

    Raises:
        ValueError: another process works there, or it can't be written to.
    """
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(
            f"expected a folder in which nobody else works, got {folder}: another process works "
            "here; wait until it ends, or name another folder"
        ) from error
    except OSError as error:
        raise ValueError(
            f"expected a folder that can be written to, got {folder}: {error.strerror}"
        ) from error
    try:
        yield
    finally:
        lock.release()
