"""Run several commands in one process, which starts only once: ``python tests/several.py JSON``.

JSON holds a list of command lines, ``[["ezo", "list"], ["bench", "run", ...]]``; what comes out is
a list of ``[status, stdout, stderr]``. It is for tests of commands in an environment.
"""

import contextlib
import io
import json
import os
import sys
import traceback
from typing import Any


def program(name: str) -> Any:
    """The main function of a command, imported when it is wanted."""
    if name == "ezo":
        from ezo.cli import main
    elif name == "search":
        from reproduce.search import main
    elif name == "bench":
        from bench.__main__ import main
    else:
        from reproduce.__main__ import main
    return main


def run(words: list[str]) -> tuple[int, str, str]:
    """One command's status and what it said; an exception that it let out is status 1."""
    out, error = _like(sys.stdout), _like(sys.stderr)
    sys.argv = [os.fsdecode(word.encode()) for word in words]  # as a shell would give them
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            status = program(words[0])() or 0
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        except Exception:
            traceback.print_exc()
            status = 1
    return status, _said(out), _said(error)


def _like(stream: Any) -> io.TextIOWrapper:
    """A stream of the same encoding, and as strict."""
    return io.TextIOWrapper(io.BytesIO(), stream.encoding, stream.errors)


def _said(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding, "replace")  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(json.dumps([run(words) for words in json.loads(sys.argv[1])]))
