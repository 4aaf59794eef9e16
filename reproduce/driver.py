"""Measure and train what a preset asks for; ``rows.jsonl`` grows as parts end."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed
from tqdm import tqdm

from bench.isolate import measure_alone
from ezo import rows
from ezo.rows import Row, provenance
from reproduce import cost
from reproduce.execute import execute
from reproduce.folder import Asked, write_rows
from reproduce.presets import PRESETS

SIDE_BY_SIDE = (
    "memory",
    "float_operations",
)  # benchmarks that what runs beside them does not change
CELL_SECONDS = 8.0


def run(asked: Asked, out: Path, *, root: Path | None, device: str) -> None:
    """Measure, then train; in the end ``rows.jsonl`` is in the preset's order.

    What is done is read from ``out`` and not done again.

    Args:
        asked: preset, experiments and jobs.
        out: folder for rows; ``cells`` and ``runs`` in it keep what each part found.
        root: where data sets lie.
        device: where to train.
    """
    preset = PRESETS[asked.preset]
    kinds = {r.case: kind for kind, runs in preset.runs(asked.experiments).items() for r in runs}
    runs = [r for found in preset.runs(asked.experiments).values() for r in found]
    parts: list[list[Row]] = []
    measured = () if asked.experiments else preset.cells
    cells = list(dict.fromkeys(cell for part in measured for cell in part.cases()))
    weights = {r.case: cost.seconds(r) / asked.jobs for r in runs}
    with tqdm(
        total=round(sum(weights.values()) + CELL_SECONDS * len(cells)),
        unit="predicted s",
        bar_format="{desc}: {percentage:3.0f}% |{bar}| {elapsed} gone, {remaining} left{postfix}",
    ) as bar:
        bar.set_description_str("measuring")
        for part in _measure(cells, out / "cells", asked.jobs):
            parts.append(part)
            bar.update(CELL_SECONDS)
        bar.set_description_str("training")
        for number, part in enumerate(
            execute(runs, out / "runs", root=root, jobs=asked.jobs, device=device), start=1
        ):
            case = part[0].case
            stamp = {"experiment": kinds[case]}
            parts.append([replace(row, config={**row.config, **stamp}) for row in part])
            write_rows(out / "rows.jsonl", (row for part in parts for row in part))
            bar.set_postfix_str(f"{number} of {len(runs)} runs ended", refresh=False)
            bar.update(weights[case])
    order = {case: i for i, case in enumerate(kinds)}
    parts.sort(key=lambda part: order.get(part[0].case, -1))  # stable: cells stay as they were
    write_rows(out / "rows.jsonl", (row for part in parts for row in part))


def _measure(cells: list[tuple[str, Any, int]], folder: Path, jobs: int) -> Iterator[list[Row]]:
    """Every cell's rows, in the order of ``cells``; those that can't disturb go side by side."""
    quiet = [cell for cell in cells if cell[0] in SIDE_BY_SIDE]
    threads = Parallel(jobs, prefer="threads", return_as="generator")
    yield from threads(delayed(_cell)(*cell, folder) for cell in quiet)
    yield from (_cell(*cell, folder) for cell in cells if cell[0] not in SIDE_BY_SIDE)


def _cell(benchmark: str, case: Any, number: int, folder: Path) -> list[Row]:
    """One cell's rows, measured once by each commit; a row that says why where measuring failed."""
    path = folder / f"{benchmark}-{case.name}-{number}.jsonl"
    here = provenance()
    if path.exists():
        kept = rows.read(path)
        if all(row.commit == here["commit"] for row in kept):
            return kept
    try:
        measured = measure_alone(benchmark, case)
    except Exception as error:
        note = f"{benchmark}: {type(error).__name__}: {error}"
        return [Row(case.name, "failed", None, "", note=note, **here)]
    stamp = {"benchmark": benchmark, "round": number}
    found = [replace(row, config={**row.config, **stamp}) for row in measured]
    write_rows(path, found)
    return found
