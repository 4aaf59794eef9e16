"""``python -m bench run NAME``: each cell in a process of its own; also gate, history, smoke."""

import argparse
import functools
import importlib.util
import os
import pkgutil
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from tqdm import tqdm

import bench

if importlib.util.find_spec("psutil") is None:
    print(
        "bench: expected the packages of the extra bench, got no psutil; in the clone: "
        "pip install -e '.[test,peers]' -c constraints.txt",
        file=sys.stderr,
    )
    sys.exit(2)

import joblib

from bench import engines, gate, grid, history, smoke
from bench.isolate import measure_or_say_why
from bench.workload import Workload, row_of
from ezo import check
from ezo.cli import joined
from ezo.files import run_command, write_text
from ezo.lock import alone_in
from ezo.rows import Row

MODELS = ("lenet5", "pointnet")


def benchmarks() -> list[str]:
    """Every file of this folder that can be measured."""
    files = [info.name for info in pkgutil.iter_modules(bench.__path__)]
    files = [name for name in files if not name.startswith(("__", "test_", "conftest"))]
    return sorted(n for n in files if hasattr(importlib.import_module(f"bench.{n}"), "measure"))


def main() -> int:
    """The command line."""
    return run_command("python -m bench", _command, workers=True)


def _command() -> int:
    shown = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure every cell of a grid", formatter_class=shown)
    run.add_argument("benchmark", choices=benchmarks(), help="what to measure")
    _add_grid(run)
    run.add_argument("--data", nargs="+", help="data sets, for accuracy")
    run.add_argument("--out", type=Path, help="folder for rows.jsonl; its cells are not done again")
    run.add_argument("--list", action="store_true", help="show the cells and how long they'll take")
    run.add_argument(
        "--jobs",
        type=int,
        help="cells side by side; by default one, but a core each on a CPU where none disturbs",
    )
    run.add_argument("--engine", default=engines.USUAL, help=engines.HELP)
    run.add_argument("--retry-failed", action="store_true", help="measure again what failed")
    compare = commands.add_parser(
        "gate", help="fail where this tree is worse than a commit", formatter_class=shown
    )
    gate.add_arguments(compare)
    _add_grid(compare)
    past = commands.add_parser("history", help="rows over commits, as one page")
    history.add_arguments(past)
    small = commands.add_parser("smoke", help="every benchmark once, small; keeps nothing")
    smoke.add_arguments(small)
    given = parser.parse_args(list(joined(sys.argv[1:])))
    if given.command == "smoke":
        return smoke.run(given, benchmarks())
    if given.command == "history":
        return history.run(given)
    if given.command == "gate":
        return _gate(given)
    if given.out is None and not given.list:
        run.error("expected --out, a folder for rows.jsonl, or --list")
    benchmark = importlib.import_module(f"bench.{given.benchmark}")
    cells = _grid(given, benchmark).cells(benchmark)
    jobs = _jobs(benchmark, cells, given.jobs, given.engine)
    if given.list:
        _list(benchmark, cells, grid.Kept(given.out, given.benchmark), jobs)
        return 0
    for device in {case.device for case in cells if hasattr(case, "device")}:
        check.device(device)
    with alone_in(given.out):  # before its rows are read
        kept = grid.Kept(given.out, given.benchmark)
        return _measure(benchmark, cells, kept, given.retry_failed, (given.engine, jobs))


def _gate(given: argparse.Namespace) -> int:
    try:
        return gate.run(given, _gate_cells(given))
    except (ValueError, OSError, ModuleNotFoundError):
        raise  # told in a line
    except Exception:
        traceback.print_exc()
        return 2  # not 1, which says that something regressed


def _add_grid(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--models", nargs="+", help="names that `ezo list` shows")
    parser.add_argument(
        "--methods",
        nargs="+",
        help="methods, inference, or peers; 'elastic-*' is every split point; by default the "
        "benchmark's own",
    )
    parser.add_argument("--batch-size", nargs="+", type=int, help="examples a step")
    parser.add_argument("--precision", nargs="+", help="number formats")
    parser.add_argument("--threads", nargs="+", type=int, help="CPU threads")
    parser.add_argument("--device", nargs="+", help="cpu, cuda")
    chunk = "examples that layers without a gradient take at a time (ezo.stream), 0 for all"
    parser.add_argument("--chunk", nargs="+", type=int, help=chunk)


def _grid(given: argparse.Namespace, benchmark: ModuleType) -> grid.Grid:
    names = ("methods", "batch_size", "precision", "threads", "device", "data", "chunk")
    models = given.models or getattr(benchmark, "MODELS", MODELS)
    return grid.Grid(models, **{name: getattr(given, name, None) for name in names})


def _gate_cells(given: argparse.Namespace) -> Sequence[Workload]:
    names = ("models", "methods", "batch_size", "precision", "threads", "device", "chunk")
    if given.cells is not None:
        return gate.read_cells(given.cells)
    if not any(getattr(given, name) for name in names):
        return gate.CELLS
    return _grid(given, gate).cells(gate)


def _list(benchmark: ModuleType, cells: list[Any], kept: grid.Kept, jobs: int) -> None:
    left = 0.0
    for case in cells:
        if measured := kept.of(case):
            print(f"{case.name:<56} {'failed' if _failed(measured) else 'measured':>10}")
            continue
        seconds = kept.seconds(case) or grid.predicted_seconds(benchmark, case)
        left += seconds
        print(f"{case.name:<56} {seconds:>8.0f} s")
    print(f"{len(cells)} cells, about {left / jobs / 60:.1f} minutes left")


def _failed(measured: list[Row]) -> bool:
    return any(row.metric == "failed" for row in measured)


def _jobs(benchmark: ModuleType, cells: list[Any], wanted: int | None, engine: str) -> int:
    """How many cells side by side."""
    engines.check(engine)
    able = getattr(benchmark, "SIDE_BY_SIDE", False)
    if not able and engine != engines.USUAL:
        raise ValueError(
            f"expected --engine {engines.USUAL} for {benchmark.__name__}, got {engine}: its times "
            "are this machine's, alone"
        )
    if wanted is None:
        able = able and all(case.device == "cpu" for case in cells)
        return (os.cpu_count() or 1) if able else 1
    check.jobs(wanted)
    if wanted > 1 and not able:
        raise ValueError(
            f"expected --jobs 1 for {benchmark.__name__}, got {wanted}: cells side by side would "
            "disturb its times"
        )
    return wanted


def _measure(
    benchmark: ModuleType,
    cells: list[Any],
    kept: grid.Kept,
    retry_failed: bool,
    by: tuple[str, int],
) -> int:
    name, (engine, jobs) = kept.benchmark, by
    predicted = {c: kept.seconds(c) or grid.predicted_seconds(benchmark, c) for c in cells}
    failed = {case: _failed(kept.of(case)) for case in cells if kept.of(case)}
    todo = [
        case for case in cells if failed.get(case, True) and (retry_failed or case not in failed)
    ]
    left = sum(predicted[case] for case in todo)
    if not todo:
        print(f"all {len(cells)} cells were measured before; their rows are in {kept.path}")
    shown = "{l_bar}{bar}| {postfix}"
    hide = None if todo else True  # None: shown on a terminal alone
    # Workers only wait for the cells' processes; rows are kept by this one alone.
    work = functools.partial(measure_or_say_why, name)
    with (
        joblib.parallel_config(backend="threading"),
        tqdm(total=round(left), unit="s", bar_format=shown, disable=hide) as bar,
    ):
        ended = engines.run(engine, work, todo, jobs)
        for n, (number, measured) in enumerate(ended, start=1):
            case = todo[number]
            if isinstance(measured, engines.Lost):
                measured = [row_of(case, "failed", None, "", measured.note)]
            kept.put(case, measured)
            for row in measured:
                tqdm.write(_shown(row))
            failed[case] = _failed(measured)
            left -= predicted[case]
            still = f"{len(todo) - n} cells, about {max(left / jobs, 0):.0f} s left"
            bar.set_postfix_str(still)
            bar.update(round(predicted[case]))
    if hasattr(benchmark, "table"):
        text = benchmark.table([row for case in cells for row in kept.of(case)])
        write_text(kept.path.parent / f"{name}.md", text)
        print(text, end="")
    return int(any(failed.values()))


def _shown(row: Row) -> str:
    value = "-"
    if row.value is not None:
        value = f"{row.value:,.4g}" if row.unit in ("1", "s") else f"{row.value:,}"
    return f"{row.case:<48} {row.metric:<24} {value:>14} {row.unit}  {row.note}"


if __name__ == "__main__":
    sys.exit(main())
