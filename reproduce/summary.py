"""README's table: ``python -m reproduce.summary [FOLDER]`` prints it from a report's rows.

Accuracy is the mean over the seeds that every method of the table has. The frozen control trains
the same last layers by BP and leaves the others at their initial weights: what a method has above
it, its ZO steps add. Bytes and heap are those of a step over a pass of inference in the same
precision, at batch 32 (`bench.memory` defines both).
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from ezo import rows
from ezo.rows import Row
from reproduce.select import Group, Key, cells, final, seeds_of, value

MODEL, DATA, PRECISIONS = "lenet5", ("mnist", "fashion-mnist"), ("fp32", "int8")
CONTROLS = {"full-zo": "", "elastic-1": "tail-only-1", "elastic-2": "tail-only-2", "full-bp": ""}
HEAD = ["MNIST", "its frozen control", "Fashion-MNIST", "its frozen control", "tensors", "heap"]


def table(found: list[Row]) -> str:
    """The table in Markdown: every cell is fp32 / int8."""
    lines = [["method", *HEAD], ["---", *["--:"] * len(HEAD)]]
    for method, control in CONTROLS.items():
        cell = [method]
        for data in DATA:
            cell += [_both(_accuracy(found, data, name)) for name in (method, control)]
        for metric in ("peak_tensor_bytes", "heap_peak_bytes"):
            cell.append(_both(_over_inference(found, metric, method)))
        lines.append(cell)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _accuracy(found: list[Row], data: str, method: str) -> Iterable[str]:
    """Mean final test accuracy (%) in each precision; nothing without a method."""
    ends = final(found, "test_accuracy")
    for precision in PRECISIONS if method else ():
        group = Group(MODEL, data, precision)
        seeds = seeds_of(ends, group, *filter(None, [*CONTROLS, *CONTROLS.values()]))
        if seeds:
            mine = [value(ends[Key(*group, method, seed)]) for seed in seeds]
            yield f"{statistics.mean(mine):.2f}"


def _over_inference(found: list[Row], metric: str, method: str) -> Iterable[str]:
    """A step's peak over a pass of inference's in each precision."""
    peaks = {
        (precision, name): value(row)
        for (cell, precision, name), row in cells(found, metric).items()
        if cell.model == MODEL and row.config.get("batch_size") == 32
    }
    for precision in PRECISIONS:
        if (precision, method) in peaks:
            yield f"{peaks[precision, method] / peaks[precision, 'inference']:.3f}"


def _both(cells: Iterable[str]) -> str:
    return " / ".join(cells) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.summary", description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=Path("reports/paper"))
    folder = parser.parse_args(arguments).folder
    packed = folder / "rows.jsonl.gz"
    print(table(rows.read(packed if packed.exists() else folder / "rows.jsonl")))


if __name__ == "__main__":
    main()
