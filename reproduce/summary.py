"""README's table: ``python -m reproduce.summary [FOLDER ...]`` prints it from reports' rows.

With ``--nodes`` the table is docs/nodes.md's, of node perturbation and learned feedback.

Accuracy is the mean over the seeds that every method of the table has. The frozen control trains
the same last layers by BP and leaves the others at their initial weights: what a method has above
it, its ZO steps add. Bytes and heap are those of a step over a pass of inference in the same
precision, at batch 32 (`bench.memory` defines both).
"""

import argparse
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from ezo.rows import Row
from reproduce.folder import read_rows
from reproduce.select import Group, Key, cells, final, seeds_of, value

MODEL, DATA, PRECISIONS = "lenet5", ("mnist", "fashion-mnist"), ("fp32", "int8")
CONTROLS = {"full-zo": "", "elastic-1": "tail-only-1", "elastic-2": "tail-only-2", "full-bp": ""}
NODES = {
    # the last layer of full-zo-feedback learns from its exact gradient
    **{"full-zo": "", "full-zo-node": "", "full-zo-feedback": "tail-only-1"},
    **{name: "tail-only-2" for name in ("elastic-2", "elastic-node-2", "elastic-feedback-2")},
}
HEAD = ["MNIST", "its frozen control", "Fashion-MNIST", "its frozen control", "tensors", "heap"]


def table(found: list[Row], controls: dict[str, str] = CONTROLS) -> str:
    """The table in Markdown: every cell is fp32 / int8, or fp32 alone where that is all there is.

    Args:
        controls: each method of the table with its frozen control, if it has one.
    """
    lines = [["method", *HEAD], ["---", *["--:"] * len(HEAD)]]
    for method, control in controls.items():
        cell = [method]
        for data in DATA:
            cell += [_both(_accuracy(found, data, n, controls)) for n in (method, control)]
        if {*cell[1::2]} == {"-"}:  # not run
            continue
        for metric in ("peak_tensor_bytes", "heap_peak_bytes"):
            cell.append(_both(_over_inference(found, metric, method)))
        lines.append(cell)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _accuracy(found: list[Row], data: str, method: str, controls: dict[str, str]) -> Iterable[str]:
    """Mean final test accuracy (%) in each precision; nothing without a method."""
    ends = final(found, "test_accuracy")
    for precision in PRECISIONS if method else ():
        group = Group(MODEL, data, precision)
        every = {m for m in (*controls, *controls.values()) if m}
        there = {key.method for key in ends if key[:3] == group}
        seeds = seeds_of(ends, group, *(every & there)) if method in there else []
        if seeds:
            mine = [value(ends[Key(*group, method, seed)]) for seed in seeds]
            yield f"{statistics.mean(mine):.2f}"


def _over_inference(found: list[Row], metric: str, method: str) -> Iterable[str]:
    """A step's peak over a pass of inference's in each precision."""
    peaks = {
        (precision, name): value(row)
        for (cell, precision, name), row in cells(found, metric).items()
        if cell.model == MODEL and row.config.get("batch_size") == 32 and "chunk" not in row.config
    }
    for precision in PRECISIONS:
        if (precision, method) in peaks:
            yield f"{peaks[precision, method] / peaks[precision, 'inference']:.3f}"


def _both(cells: Iterable[str]) -> str:
    return " / ".join(cells) or "-"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m reproduce.summary", description=__doc__)
    parser.add_argument("folders", type=Path, nargs="*", metavar="FOLDER")
    parser.add_argument("--nodes", action="store_true", help="of node perturbation")
    given = parser.parse_args(arguments)
    folders = given.folders or [Path("reports/paper")]
    found = [row for folder in folders for row in read_rows(folder)]
    print(table(found, NODES if given.nodes else CONTROLS))


if __name__ == "__main__":
    main()
