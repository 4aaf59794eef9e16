"""Measure and train what a preset asks for; ``rows.jsonl`` grows as parts end."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from joblib import Parallel, delayed

from bench import engines, grid
from bench.isolate import measure_alone
from ezo import rows
from ezo.rows import Row, provenance
from reproduce import cost, parts
from reproduce.execute import execute
from reproduce.folder import Request
from reproduce.parts import Cell
from reproduce.presets import PRESETS
from reproduce.progress import Progress, RunsLeft
from reproduce.stamp import ended

# Benchmarks that what runs beside them does not change.
SIDE_BY_SIDE = ("memory", "float_operations")


def run(
    asked: Request,
    out: Path,
    *,
    root: Path | None,
    device: str,
    again: bool = False,
    engine: str = engines.USUAL,
) -> str:
    """Measure, then train; in the end ``rows.jsonl`` is in the preset's order.

    What lies in ``out`` is not done again, and rows of other parts stay there.

    Args:
        asked: preset, experiments and jobs.
        out: folder for rows; ``runs`` in it keeps what each run found.
        root: where data sets lie.
        device: where to train.
        again: do again what other code made.
        engine: what trains the runs (`bench.engines`). Measurements stay on this machine, and no
            run is trained beside them.

    Returns:
        What the reader must know of it, or nothing.
    """
    preset = PRESETS[asked.preset]
    by_kind = preset.runs(asked.experiments)
    kinds = {one.case: kind for kind, runs in by_kind.items() for one in runs}
    measured = () if asked.experiments else preset.cells
    cells = list(dict.fromkeys(cell for part in measured for cell in part.cases()))
    wanted = [*map(parts.of_cell, cells), *(("", case) for case in kinds)]
    found = parts.read(out, kinds)
    old = parts.of_other_code(wanted, found)
    note = _old(old) if not again else ""
    if note:
        print(f"reproduce: {note}", flush=True)
    redone = old if again else set()
    runs = parts.to_train((r for each in by_kind.values() for r in each), found, out, redone)
    for one in runs:
        if ended(found.get(("", one.case), [])) or ("", one.start) in redone:
            shutil.rmtree(out / "runs" / one.case, ignore_errors=True)
    cells = [c for c in cells if (n := parts.of_cell(c)) in redone or not ended(found.get(n, []))]
    order = {name: n for n, name in enumerate(wanted)}

    def keep(name: parts.Name, part: list[Row]) -> None:
        found[name] = part
        ordered = sorted(found, key=lambda name: order.get(name, len(order)))
        rows.write(out / "rows.jsonl", (row for name in ordered for row in found[name]))

    seconds = {
        cell: cost.cell_seconds(*cell) / (asked.jobs if cell[0] in SIDE_BY_SIDE else 1)
        for cell in cells
    }
    left = RunsLeft(runs, out / "runs", asked.jobs)
    with Progress(sum(seconds.values()) + left.seconds(), left.trained) as progress:
        progress.doing = "measuring"
        for cell, part in _measure(cells, asked.jobs):
            keep(parts.of_cell(cell), part)
            progress.done(seconds[cell])
        progress.doing = "training"
        how: dict[str, Any] = {"root": root, "jobs": asked.jobs, "device": device, "engine": engine}
        for part in execute(runs, out / "runs", **how):
            case = part[0].case
            keep(("", case), parts.stamped(part, kinds[case], out))
            progress.done(left.ended(case))
    for name, part in list(found.items())[:1]:
        keep(name, part)  # also where nothing was left to do
    return note


def _old(names: set[parts.Name]) -> str:
    runs = sum(not benchmark for benchmark, _ in names)
    if not names:
        return ""
    return (
        f"{runs} runs and {len(names) - runs} measurements here were made by other code than this, "
        "or don't say by which; they are kept. To do them again, give the same command with --again"
    )


def _measure(cells: list[Cell], jobs: int) -> Iterator[tuple[Cell, list[Row]]]:
    """Every cell with its rows; those that can't disturb each other go side by side, and first."""
    quiet = [cell for cell in cells if cell[0] in SIDE_BY_SIDE]
    threads = Parallel(jobs, prefer="threads", return_as="generator")
    yield from zip(quiet, threads(delayed(_cell)(*cell) for cell in quiet), strict=True)
    yield from ((cell, _cell(*cell)) for cell in cells if cell[0] not in SIDE_BY_SIDE)


def _cell(benchmark: str, case: object) -> list[Row]:
    """One cell's rows, which say what they are of; a row that says why where measuring failed."""
    name = getattr(case, "name", "")
    stamp = {"benchmark": benchmark, "cell": name, "source": grid.source_digest()}
    try:
        measured = measure_alone(benchmark, case)
    except Exception as error:
        note = f"{benchmark}: {type(error).__name__}: {error}"
        measured = [Row(name, "failed", None, "", note=note, **provenance())]
    return [replace(row, config={**row.config, **stamp}) for row in measured]
