"""``python -m bench run memory|steptime``: each case in a process of its own, rows to a file."""

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path

from tqdm import tqdm

import bench
from bench.isolate import measure_alone
from ezo import rows


def benchmarks() -> list[str]:
    """Every file of this folder that can be measured."""
    found = []
    for info in pkgutil.iter_modules(bench.__path__):
        if info.name != "__main__" and hasattr(
            importlib.import_module(f"bench.{info.name}"), "measure"
        ):
            found.append(info.name)
    return sorted(found)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="measure", formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    run.add_argument("benchmark", choices=benchmarks(), help="what to measure")
    run.add_argument(
        "--models", nargs="+", default=["lenet5", "pointnet"], help="names that `ezo list` shows"
    )
    run.add_argument("--methods", nargs="+", help="methods; by default the benchmark's own")
    run.add_argument("--batch-size", type=int, default=32, help="examples a step")
    run.add_argument("--out", type=Path, required=True, help="folder for rows.jsonl")
    given = parser.parse_args()
    benchmark = importlib.import_module(f"bench.{given.benchmark}")
    path = given.out / "rows.jsonl"
    path.unlink(missing_ok=True)
    for case in tqdm(benchmark.cases(given.models, given.methods, given.batch_size), unit="case"):
        measured = measure_alone(given.benchmark, case)
        rows.write(path, measured, append=True)
        for row in measured:
            value = (
                "-"
                if row.value is None
                else f"{row.value:,.4g}"
                if row.unit == "1"
                else f"{row.value:,}"
            )
            tqdm.write(f"{row.case:<40} {row.metric:<24} {value:>14} {row.unit}  {row.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
