"""The parts of a reproduction, runs and measurements: which lie in a folder, and who made them."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench import grid
from ezo import rows
from ezo.rows import Row
from ezo.train import Run
from reproduce import stamp
from reproduce.folder import has_rows, read_rows, run_rows

Cell = tuple[str, Any]  # benchmark, case
Name = tuple[str, str]  # benchmark or nothing, the cell's or the run's
Parts = dict[Name, list[Row]]


def read(out: Path, kinds: dict[str, str]) -> Parts:
    """What lies in a folder: in its rows, in runs' folders, and in earlier versions' ``cells``.

    Args:
        out: the folder.
        kinds: as what each run that is wanted is judged, by case.
    """
    parts: Parts = {}
    for row in read_rows(out) if has_rows(out) else []:
        parts.setdefault(name_of(row), []).append(row)
    for path in sorted((out / "cells").glob("*.jsonl")):
        part = rows.read(path)
        benchmark = str(part[0].config.get("benchmark", "")) if part else ""
        if part and not benchmark:
            raise ValueError(
                f"{path}: expected the rows of a cell, whose config names its benchmark, got none; "
                "remove the file"
            )
        case = path.stem[len(benchmark) + 1 :].rpartition("-")[0]
        if part and (benchmark, case) not in parts:
            for name in {name_of(row) for row in part}:
                parts.pop(name, None)
            parts[benchmark, case] = [replace(r, config={**r.config, "cell": case}) for r in part]
    for case, kind in kinds.items():
        if stamp.ended(found := run_rows(out / "runs" / case)):
            parts["", case] = stamped(found, kind, out)
    return parts


def stamped(found: list[Row], kind: str, out: Path) -> list[Row]:
    """A run's rows with what they are judged as, and what made them."""
    source = {"source": stamp.of(out / "runs" / found[0].case)}
    return [replace(row, experiment=kind, config={**row.config, **source}) for row in found]


def name_of(row: Row) -> Name:
    """Of the part that a row is of."""
    if row.seed is not None:
        return "", row.case
    return row.config.get("benchmark", ""), row.config.get("cell", row.case)


def of_cell(cell: Cell) -> Name:
    """A cell's name."""
    return cell[0], cell[1].name


def to_train(runs: Iterable[Run], parts: Parts, out: Path, again: set[Name]) -> list[Run]:
    """Runs that have not ended, or are done again; and joined ones whose weights these start from.

    Args:
        runs: wanted; one that starts from another one comes after it or before.
        parts: what lies in ``out``.
        out: the folder.
        again: names of parts to be done again, and with them what starts from them.
    """
    by_case = {run.case: run for run in runs}
    chosen = {
        case
        for case, run in by_case.items()
        if {("", case), ("", run.start)} & again or not stamp.ended(parts.get(("", case), []))
    }
    for case in sorted(chosen):
        start = by_case[case].start
        if start and not (out / "runs" / start).exists():
            chosen.add(start)
    return [run for case, run in by_case.items() if case in chosen]


def of_other_code(wanted: Iterable[Name], parts: Parts) -> set[Name]:
    """Names of the parts that are done and have not the stamp of the sources here."""
    found = set()
    for name in wanted:
        part = parts.get(name, [])
        here = grid.source_digest() if name[0] else stamp.here()
        if stamp.ended(part) and any(row.config.get("source") != here for row in part):
            found.add(name)
    return found
