"""Is this tree worse than another commit? Bytes, bits and step time of both, side by side.

Each side is built by pip into a folder of its own, compiled extension included, and measured by its
own `bench`, which the gate asks in a protocol with a version (`bench.probe`). For every cell (a
method's step on a model):

    bytes   peak tensor bytes of a step; exact, so more than ``--bytes-tolerance`` fails
    digest  SHA-256 of losses and weights after some steps from one seed; another one fails, unless
            ``--allow-digest-change``
    time    step time, head over base: fails only where the whole interval of the ratio lies above
            the tolerance, and again in a rerun in fresh processes

Time is taken in pairs of fresh processes. A pair measures in rounds A B B A, B A A B, ..., and a
visit keeps its fastest step. A round's sample is the difference of the sides' mean log seconds; the
statistic is the mean over pairs of the median over rounds, with a bootstrap interval over pairs and
rounds within them. More pairs are measured while the interval holds the tolerance.

Equal instruments: both sides have the same torch, environment, number of steps in a visit, and
clock. That both do the same work is what the digest says: it covers losses, so data too. What a
metric means is a version that each side tells; where they differ the metric is not measured.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.cuda import is_cuda
from bench.gate.judging import OK, REGRESSED
from bench.gate.measuring import Gate, Settings
from bench.gate.report import Report
from bench.gate.sides import NotMeasured, build_sides
from bench.timing import Clock
from bench.workload import Workload
from ezo import check
from ezo.files import write_text

MOST = 10_000  # pairs, and comparisons
METHODS = ("inference", "full-zo", "elastic-1", "full-bp")  # of a grid in place of `CELLS`
CELLS = (
    *(Workload("lenet5", m) for m in METHODS),
    *(Workload("lenet5", m, precision="int8") for m in ("full-zo", "elastic-1")),
    *(Workload("pointnet", m, batch_size=2) for m in ("full-zo", "elastic-1")),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``python -m bench gate``, but those that choose cells."""
    parser.add_argument("--base", required=True, help="commit, branch or tag to compare with")
    for option in dataclasses.fields(Settings):
        kind: dict[str, Any] = {"action": "store_true"}
        if option.default is not False:
            kind = {"type": type(option.default), "choices": option.metadata["choices"]}
        name = "--" + option.name.replace("_", "-")
        parser.add_argument(name, default=option.default, help=option.metadata["help"], **kind)
    parser.add_argument(
        "--repeat", type=int, default=1, help="compare so many times, to see how quiet the gate is"
    )
    parser.add_argument(
        "--foreign",
        action="store_true",
        help="compare another project's package, in whose clone this runs, by this bench",
    )
    parser.add_argument(
        "--cells", type=Path, help="file of cells, a JSON object of a step's settings a line"
    )
    parser.add_argument("--json", type=Path, help="file for everything that was found")
    parser.add_argument("--markdown", type=Path, help="file for the summary, besides stdout")


def run(given: argparse.Namespace, cells: Sequence[Workload]) -> int:
    """Build, compare, report; returns the exit status.

    Raises:
        ValueError: a file can't be written, or a number is out of range.
    """
    for name in ("pairs", "repeat"):
        if not 1 <= getattr(given, name) <= MOST:
            raise ValueError(
                f"expected --{name} from 1 to {MOST:,}, got {getattr(given, name)}; a comparison "
                "takes minutes"
            )
    settings = Settings(**{f.name: getattr(given, f.name) for f in dataclasses.fields(Settings)})
    _check_devices(cells, settings)
    report, statuses = Report(error="the gate has not ended"), []
    _write(given, report.json(), report.markdown())  # now, not when all is measured
    with tempfile.TemporaryDirectory(prefix="ezo-gate-") as folder:
        report = Report()
        try:
            report.sides = build_sides(given.base, Path(folder), given.foreign)
            for n in range(given.repeat):
                report.findings = Gate(report.sides, settings).compare(cells)
                statuses.append(report.status)
                if given.repeat > 1:
                    if given.json is not None:
                        one = given.json.with_stem(f"{given.json.stem}-{n + 1}")
                        write_text(one, report.json())
                    print(f"run {n + 1}: status {report.status}", flush=True)
                    if report.status:
                        print(report.markdown(), flush=True)
        except NotMeasured as error:
            report.error = str(error)
            statuses.append(report.status)
    summary = report.markdown()
    if given.repeat > 1:
        quiet = statuses.count(OK)
        summary += f"\n{quiet} of {len(statuses)} runs found nothing.\n"
    _write(given, report.json(), summary)
    print(summary, flush=True)
    return REGRESSED if REGRESSED in statuses else max(statuses)


def _check_devices(cells: Sequence[Workload], settings: Settings) -> None:
    """Before anything is built, which takes minutes.

    Raises:
        ValueError: a device does not work here, or the clock or planted fault is the processor's,
            and a cell's device is a CUDA one.
    """
    for device in dict.fromkeys(cell.device for cell in cells):
        check.device(device)
        Clock(device, settings.clock)
        if is_cuda(device) and settings.plant.startswith("slowdown"):
            raise ValueError(
                f"expected no --plant {settings.plant} on {device}, got that: it keeps the "
                "processor busy, which a GPU need not wait for; plant leak-64KiB, or give "
                "--device cpu"
            )


def read_cells(path: Path) -> list[Workload]:
    """Cells from a file: ``{"model": "yours", "method": "elastic-1", "batch_size": 8}`` a line.

    Raises:
        ValueError: a line is no cell.
        OSError: it can't be read.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: expected cells in UTF-8, got {error}; save the file as such"
        ) from error
    cells = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            cells.append(_cell(**json.loads(line)))
        except (TypeError, ValueError, RecursionError) as error:
            known = ", ".join(field.name for field in dataclasses.fields(Workload))
            raise ValueError(
                f"{path}, line {number}: expected a JSON object with some of {known}, got "
                f"{line:.80} ({error}); mend that line"
            ) from error
    if not cells:
        raise ValueError(f"{path}: expected a cell a line, got none; add one")
    return cells


def _cell(**given: Any) -> Workload:
    cell = Workload(**given)
    for field in dataclasses.fields(cell):
        value = getattr(cell, field.name)
        if field.type == "str" or field.type is str:
            if not isinstance(value, str):
                raise TypeError(f"{field.name} has to be text, got {value!r:.20}")
        else:
            check.integer(field.name, value, int(field.name != "chunk"))
    return cell


def _write(given: argparse.Namespace, json: str, markdown: str) -> None:
    for name, text in (("json", json), ("markdown", markdown)):
        path: Path | None = getattr(given, name)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_text(path, text)
        except OSError as error:
            raise ValueError(
                f"expected --{name} to be a file that can be written to, got '{path}': {error}"
            ) from error
