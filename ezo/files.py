"""Files that are replaced whole: a kill at any moment leaves the old one or the new one."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` in the end; a failure leaves none."""
    beside = path.parent / f"{path.name}.tmp"
    try:
        yield beside
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all; what is no text, as in a name, is escaped.

    Raises:
        OSError: the file can't be written.
    """
    try:
        with replaced(path) as beside:
            beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise unwritten(path, error) from error


def open_streams() -> None:
    """Where a process was started with closed standard streams, say into nothing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nothing, "w", closefd=False))


def told(error: OSError) -> str:
    """The text of an error, also of one that the system words."""
    if error.errno is None:  # ours
        return str(error)
    return (
        f"{error.filename or 'a file'}: expected to read or write it, got: {error.strerror}; make "
        "room, or name another folder"
    )


def unwritten(path: Path, error: OSError) -> OSError:
    """The error that says what to do."""
    return type(error)(
        f"{path}: expected a place to write a file, got: {error.strerror}; make room, or give "
        "another folder"
    )
