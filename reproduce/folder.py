"""A folder of a reproduction: what it was asked for, and its rows."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ezo import check
from ezo import rows as rows_module
from ezo.files import write_text
from ezo.rows import Row
from reproduce.presets import PRESETS


@dataclass(frozen=True)
class Request:
    """What a folder's rows come from.

    Attributes:
        preset: name of a preset.
        experiments: names of the preset's experiments, or none for all of them.
        jobs: training runs side by side.
    """

    preset: str
    experiments: tuple[str, ...] = ()
    jobs: int = 1

    def write(self, out: Path) -> None:
        """Keep it in ``out``.

        Raises:
            ValueError: ``out`` is the folder of another preset.
        """
        if (out / "preset.json").exists() and (there := asked(out).preset) != self.preset:
            raise ValueError(
                f"expected the folder of preset {self.preset}, got one of {there}: {out}; give "
                "another --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / "preset.json", json.dumps(asdict(self)) + "\n")


def asked(out: Path) -> Request:
    """What ``out`` was asked for.

    Raises:
        ValueError: ``out`` is no folder of a reproduction.
    """
    path = out / "preset.json"
    if not path.exists():
        what = "a folder without preset.json" if out.is_dir() else "no such folder"
        raise ValueError(
            f"expected the folder of a reproduction, got {what}: {out}; "
            f"`python -m reproduce --preset NAME --out {out}` makes one"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        want = Request(found["preset"], tuple(found.get("experiments", ())), found.get("jobs", 1))
        known = PRESETS[want.preset].experiments
        if unknown := [name for name in want.experiments if name not in known]:
            raise ValueError(f"{unknown[0]!r:.80} is no experiment of {want.preset}")
        if type(want.jobs) is not int or not 1 <= want.jobs <= check.MOST_JOBS:
            raise ValueError(f"{want.jobs!r:.80} jobs")
        return want
    except (AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected what `python -m reproduce --preset NAME --out {out}` writes, got "
            f"{type(error).__name__}: {error}; run that command first"
        ) from error


def has_rows(out: Path) -> bool:
    """Whether there is a file of rows."""
    return any((out / name).exists() for name in ("rows.jsonl", "rows.jsonl.gz"))


def run_rows(folder: Path) -> list[Row]:
    """Rows of a run that may be writing them: a last line that is not whole yet is left out."""
    path = folder / "rows.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [rows_module.parse(path, n, line) for n, line in enumerate(lines, start=1)]


def read_rows(out: Path) -> list[Row]:
    """The folder's rows: ``rows.jsonl``, or ``rows.jsonl.gz``.

    Raises:
        ValueError: there is neither, or no row in it.
    """
    for path in (out / "rows.jsonl", out / "rows.jsonl.gz"):
        if path.exists():
            found = rows_module.read(path)
            if not found:
                raise ValueError(f"{path}: expected rows, got none; run the preset first")
            return found
    raise ValueError(
        f"{out}: expected rows.jsonl or rows.jsonl.gz, got neither; run the preset first"
    )
