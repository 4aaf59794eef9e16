"""Rows: the one form in which every measured number of the project is written down.

One JSON object a line. Only rows cross from measuring to judging, so every table and figure can
be made again from them alone.
"""

import functools
import gzip
import json
import math
import platform
import subprocess
import types
import typing
import zlib
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ezo import check, files

LONGEST = 1 << 20  # bytes of a line


@dataclass(frozen=True)
class Row:
    """One number and where it comes from.

    Attributes:
        case: what was done, unique within a file: a run's name or a benchmark's cell.
        model, data, method, precision, seed: the run; empty or None where it has none.
        step: optimisation steps done when the value was taken.
        metric: what was measured, for example ``test_accuracy``.
        value: the number, or None where measuring failed (``note`` says why).
        unit: its unit, for example ``%``, ``B``, ``s``, or ``1`` for a pure number.
        note: what a reader must know about this number.
        config: the run's other settings, flat.
        commit, dirty: the source that measured; ``dirty`` when files differed from the commit.
        versions: of ezo, torch and Python.
        processor, device, threads: the machine.
        data_checksum: SHA-256 of the data (`ezo.data.Dataset.checksum`).
        experiment: as what the run is judged; empty where nobody said.
    """

    case: str
    metric: str
    value: float | None
    unit: str
    model: str = ""
    data: str = ""
    method: str = ""
    precision: str = "fp32"
    seed: int | None = None
    step: int | None = None
    note: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    commit: str = ""
    dirty: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    processor: str = ""
    device: str = "cpu"
    threads: int = 1
    data_checksum: str = ""
    experiment: str = ""

    def json(self) -> str:
        """The row as one line, without a line's end. NaN and infinity are written as text."""
        fields = asdict(self)
        if isinstance(self.value, float) and not -float("inf") < self.value < float("inf"):
            fields |= {"value": None, "note": f"{self.value} {self.note}".strip()}
        return json.dumps(fields, ensure_ascii=False, allow_nan=False)


_PLAIN = (str, int, float, bool, type(None))  # in a config


def json_types(kind: Any) -> tuple[Any, ...]:
    """The types that JSON may give for a dataclass's field of a type."""
    found = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    found = tuple(typing.get_origin(one) or one for one in found)
    return (*found, int) if float in found else found


_TYPES = {f.name: json_types(f.type) for f in fields(Row)}


def write(path: Path, rows: Iterable[Row], *, append: bool = False) -> None:
    """Write rows to a file, one a line; but where they are appended, whole or not at all.

    Raises:
        OSError: the file can't be written.
    """
    lines = (row.json() + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with nullcontext(path) if append else files.replaced(path) as beside:
            mode = "a" if append else "w"
            # A name of a file may hold what is no text: JSON has an escape for it.
            with beside.open(mode, encoding="utf-8", errors="backslashreplace") as file:
                file.writelines(lines)
    except OSError as error:
        raise files.unwritten(path, error) from error


def read(path: Path) -> list[Row]:
    """Read a file of rows, also one that gzip compressed (``.gz``).

    Raises:
        ValueError: a line is not a row; the message names the file and the line.
        OSError: the file can't be read.
    """
    found: list[Row] = []
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            while line := file.readline(LONGEST):
                found.append(parse(path, len(found) + 1, line))
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{path}: expected a whole gzip file of rows, got: {error}; fetch it or measure again"
        ) from error
    except OSError as error:
        raise type(error)(
            f"{path}: expected a file of rows, got: {error.strerror}; name one that can be read"
        ) from error
    return found


def parse(path: Path, n: int, line: bytes) -> Row:
    """Line ``n`` of the file ``path``.

    Raises:
        ValueError: it is not a row.
    """
    try:
        told = json.loads(line.decode("utf-8"), parse_float=_finite, parse_constant=_finite)
        row = Row(**told)
        for name, item in told.items():
            if type(item) not in _TYPES[name]:
                raise TypeError(f"{name} can't be {item!r:.40}")
        if not all(type(item) in _PLAIN for item in row.config.values()):
            raise TypeError("a config is flat")
        if not all(type(item) is str for item in row.versions.values()):
            raise TypeError("versions are texts")
        whole = [(name, item) for name, item in told.items() if type(item) is int]
        for name, item in [*whole, *row.config.items()]:
            if type(item) is int and abs(item) > check.LARGEST:
                raise TypeError(f"{name} can't be {item!r:.40}, which 64 bits don't hold")
        return row
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        shown = line[:80].decode("utf-8", "replace").rstrip()
        raise ValueError(
            f"{path}, line {n}: expected a row as JSON, got {shown!r}: {error}; remove the line "
            "or measure again"
        ) from error


def _finite(text: str) -> float:
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text[:40]} is no number")
    return number


@functools.cache
def provenance() -> dict[str, Any]:
    """The fields of a row that say where this process's numbers come from, but threads and data."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {
            "ezo": version_of("elasticzo"),
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "processor": _processor(),
    }


def version_of(package: str) -> str:
    """The installed version of a package, or that there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> tuple[str, bool | None]:
    """The commit this file stands in, and whether tracked files differ; ("", None) outside git."""

    def git(*words: str) -> str:
        here = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        if git("ls-files", Path(__file__).name) == "":
            return "", None
        return git("rev-parse", "HEAD"), git("status", "--porcelain", "-uno") != ""
    except (OSError, subprocess.CalledProcessError):
        return "", None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def of_other_code(found: Iterable[Row]) -> str:
    """Which commits made rows, where another than this tree's did; else nothing."""
    here = _commit()[0]
    others = sorted({row.commit[:10] for row in found if row.commit and row.commit != here})
    return ", ".join(others) if here else ""
