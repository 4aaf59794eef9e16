"""Rows: the one form in which every measured number of the project is written down.

One JSON object a line. Only rows cross from measuring to judging, so every table and figure can
be made again from them alone.
"""

import functools
import gzip
import json
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch


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


def write(path: Path, rows: Iterable[Row], *, append: bool = False) -> None:
    """Write rows to a file, one a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a" if append else "w", encoding="utf-8") as file:
        for row in rows:
            file.write(row.json() + "\n")


def read(path: Path) -> list[Row]:
    """Read a file of rows, also one that gzip compressed (``.gz``).

    Raises:
        ValueError: a line is not a row; the message names the file and the line.
    """
    rows = []
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as file:
        for n, line in enumerate(file, start=1):
            try:
                rows.append(Row(**json.loads(line)))
            except (json.JSONDecodeError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {n}: expected a row as JSON, got {line[:80].rstrip()!r}: "
                    f"{error}; remove the line or measure again"
                ) from error
    return rows


@functools.cache
def provenance() -> dict[str, Any]:
    """The fields of a row that say where this process's numbers come from, but threads and data."""
    commit, dirty = _commit()
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": {
            "ezo": version_of("ezo"),
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
