"""Files that are replaced whole: a kill at any moment leaves the old one or the new one."""

import contextlib
import os
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

TEMPORARY = ".ezo-tmp"  # ends what is being written, in a folder where one process works


def clean(folder: Path) -> None:
    """Remove what a kill left half written in a folder, in which nobody writes now."""
    for path in folder.glob(f"*{TEMPORARY}"):
        remove(path)


def remove(path: Path) -> None:
    """A file or a folder, if it is there and may be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A file to write, which takes the place of ``path`` in the end; a failure leaves none."""
    beside = path.parent / f"{path.name}{TEMPORARY}"
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


def run_command(
    name: str, work: Callable[[], int], stopped: str = "stopped", *, workers: bool = False
) -> int:
    """Do a command line's work; its exit status. An error is one line that begins with ``name``.

    With ``workers``, processes or jobs of its own, SIGTERM ends them, too, as Ctrl-C does.

    2 (unusable arguments or files, or a fault of ours, told with its traceback), 130 or 143
    (stopped by the user, or by SIGTERM), or 141 (the reader is gone).
    """
    _open_streams()
    try:
        with _terminable() if workers else contextlib.nullcontext():
            status = work()
        sys.stdout.flush()  # a reader that is gone, or a full disk, shows here and not at exit
        return status
    except BrokenPipeError:
        _drop_output()
        return 128 + 13  # as a shell counts an end by SIGPIPE
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"{name}: {told(error) if isinstance(error, OSError) else error}", file=sys.stderr)
        status = 2
    except KeyboardInterrupt as error:
        print(f"{name}: {stopped}", file=sys.stderr)
        status = 128 + (signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT)
    except Exception:  # 1 means something else in most commands
        traceback.print_exc()
        status = 2
    try:
        sys.stdout.flush()
    except OSError:
        _drop_output()
    return status


class Terminated(KeyboardInterrupt):
    """SIGTERM came: what Ctrl-C puts in order is put in order."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """While it lasts SIGTERM, which schedulers send, raises `Terminated`."""
    ours = threading.current_thread() is threading.main_thread()  # others may set no handler
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough, and order takes a moment
    raise Terminated


def _open_streams() -> None:
    """Where a process was started with closed standard streams, say into nothing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nothing = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nothing, "w", closefd=False))


def _drop_output() -> None:
    """What can't be written shall not be tried again at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
