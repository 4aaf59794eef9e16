"""Ours against every baseline and peer: step time over two forwards, peak bytes over inference.

Each method or peer of a model is a cell. Its step and a pass of inference are timed in turn, and
in any other ZO cell our ``full-zo`` with them, so that who is first is told from ratios within one
run. A peer that is not installed or fails is a row that says so. ``table`` sets the rows in
Markdown: a group each for zeroth order, ElasticZO and backpropagation.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from bench import peers
from bench.isolate import told
from bench.memory import high_water, warm_peak_bytes
from bench.timing import in_turn, interval, visit
from bench.workload import Workload
from ezo import catalogue
from ezo.rows import Row

MODELS = ("lenet5", "pointnet", "mobilenet_v2")
BATCH_SIZES = {"pointnet": 8, "mobilenet_v2": 8}  # a step stays under a second on one core
OWN = ("full-zo", "elastic-1", "elastic-2", "full-bp", "full-bp-checkpoint")
METHODS = (*OWN, *peers.names())
OURS = "full-zo"  # what a peer's ZO step is timed against
GROUPS = {"ZO": "zeroth order", "elastic": "ElasticZO", "BP": "backpropagation"}
TIME_SECONDS = 5.0  # of a cell's rounds, where they are not the fewest
ROUNDS = (5, 15)  # fewest and most
VISIT_SECONDS = 0.05
COST = (TIME_SECONDS, 15)
LIMIT_SECONDS = 180.0  # of a cell, also where the machine is busy
SMOKE = {"time_seconds": 0.0, "rounds": (2, 2), "visit_seconds": 0.001}

STEP, PEAK, HEAP = "step_over_two_forwards", "peak_over_inference", "heap_over_inference"
ALLOCATED = "allocated_over_inference"  # in place of the heap's, on CUDA
BESIDE = "step_over_full_zo"


def group(method: str) -> str:
    """Which of `GROUPS` a method or peer is in.

    >>> group("full-zo"), group("elastic-2"), group("torch-adam")
    ('ZO', 'elastic', 'BP')
    """
    if method in peers.names():
        return "ZO" if hasattr(peers.find(method), "make_step") else "BP"
    parts = catalogue.find("method", method).parts(method)
    return ("elastic" if parts.bp else "ZO") if parts.zo and parts.bp != "all" else "BP"


def measure(
    case: Workload,
    time_seconds: float = TIME_SECONDS,
    rounds: tuple[int, int] = ROUNDS,
    visit_seconds: float = VISIT_SECONDS,
) -> list[Row]:
    """Three ratios, in a ZO cell but full-zo's a fourth, and the bytes that two of them are of.

    Times are medians over rounds, with their intervals; bytes are exact tensor bytes, and the
    heap's high-water mark, on CUDA the allocator's, which sees buffers inside operations
    (`bench.memory`).
    """
    try:
        return [*_times(case, time_seconds, rounds, visit_seconds), *_sizes(case)]
    except ModuleNotFoundError as error:
        return [case.row(STEP, None, "1", f"not installed: {error.name}")]
    except Exception as error:
        if case.method not in peers.names():
            raise
        return [case.row(STEP, None, "1", f"failed: {told(error)}")]


def _times(
    case: Workload, time_seconds: float, bounds: tuple[int, int], visit_seconds: float
) -> list[Row]:
    """The rows of a step's time, from steps that go in turn."""
    beside = group(case.method) == "ZO" and case.method != OURS
    names = ["inference", case.method, *([OURS] if beside else [])]
    steps = {name: dataclasses.replace(case, method=name).prepare()[1] for name in names}
    seconds = [visit(step, 2, case.device)[-1] for step in steps.values()]
    one_round = 2 * sum(max(visit_seconds, second) for second in seconds)
    rounds = min(max(bounds[0], int(time_seconds / one_round)), bounds[1])
    samples = in_turn(steps, case.device, rounds, visit_seconds, least_steps=1)
    times = {name: torch.tensor(seconds) for name, seconds in samples.items()}
    ratios = {STEP: times[case.method] / (2 * times["inference"])}
    if beside:
        ratios[BESIDE] = times[case.method] / times[OURS]
    found = []
    for metric, ratio in ratios.items():
        low, high = interval(ratio)
        about = {"low": low, "high": high, "rounds": rounds}
        note = f"95 % interval {low:.3f} to {high:.3f}"
        found.append(case.row(metric, ratio.median().item(), "1", note, **about))
    return found


def _sizes(case: Workload) -> list[Row]:
    """The rows of memory; what can't be counted for a peer says why."""
    name, mark = high_water(case.device)
    counts: dict[str, Callable[..., int]] = {
        f"{name}_over_inference": mark,
        PEAK: warm_peak_bytes,
    }
    found = []
    for metric, count in counts.items():
        try:
            theirs = count(*dataclasses.replace(case, method="inference").prepare())
            ours = count(*case.prepare())
        except Exception as error:
            if case.method not in peers.names() and not isinstance(error, ModuleNotFoundError):
                raise
            found.append(case.row(metric, None, "1", f"can't be counted: {told(error)}"))
            continue
        found.append(case.row(metric, ours / theirs, "1", f"{ours:,} B over {theirs:,} B"))
    return found


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown: for each model and setting a table, and who is first in ZO."""
    rows = [row for row in rows if row.method and "batch_size" in row.config]
    settings = dict.fromkeys(map(_setting, rows))
    parts = []
    for setting in settings:
        cells: dict[str, dict[str, Row]] = {}
        for row in rows:
            if _setting(row) == setting:
                cells.setdefault(row.method, {})[row.metric] = row
        parts.append("\n".join([f"### {setting}", "", *_lines(cells), "", *_first(cells)]))
    return "\n\n".join(parts) + "\n"


def _setting(row: Row) -> str:
    about = {"image": "images of {}", "points": "{} points", "batch_size": "batch {}"}
    said = [text.format(row.config[name]) for name, text in about.items() if name in row.config]
    threads = f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    return ", ".join([row.model, *said, row.precision, threads, row.device])


def _lines(cells: dict[str, dict[str, Row]]) -> list[str]:
    mark = ALLOCATED if any(ALLOCATED in own for own in cells.values()) else HEAP
    found = [
        "| group | method | whose | step / two forwards | 95 % | peak bytes / inference "
        f"| {mark.partition('_')[0]} / inference | note |",
        "|---|---|---|--:|---|--:|--:|---|",
    ]

    def order(method: str) -> tuple[int, float]:
        return list(GROUPS).index(group(method)), _value(cells[method], STEP)

    for method in sorted(cells, key=order):
        own = cells[method]
        low, high = _bounds(own, STEP)
        within = f"{low:.2f} to {high:.2f}" if low < high else ""
        notes = [row.note for row in own.values() if row.value is None]
        numbers = [_shown(_value(own, m), d) for m, d in ((STEP, 2), (PEAK, 3), (mark, 3))]
        whose = "peer" if method in peers.names() else _package(method)
        line = [GROUPS[group(method)], method, whose, numbers[0], within, *numbers[1:]]
        found.append("| " + " | ".join([*line, "; ".join(notes).replace("|", "\\|")]) + " |")
    return found


def _package(method: str) -> str:
    """Of which package a method's file is: ezo's own, or that of whoever wrote it."""
    return catalogue.find("method", method).__name__.partition(".")[0]


def _first(cells: dict[str, dict[str, Row]]) -> list[str]:
    """Who is first among ZO steps in time and in bytes."""
    others = [m for m in cells if m != OURS and group(m) == "ZO"]
    timed = {m: _bounds(cells[m], BESIDE) for m in others if BESIDE in cells[m]}
    against = [
        f"{m} takes {_value(cells[m], BESIDE):.2f} times {OURS}'s ({low:.2f} to {high:.2f})"
        for m, (low, high) in timed.items()
    ]
    found = [_verdict("time", timed, 1.0, against)]
    if PEAK in cells.get(OURS, {}):
        mine = _value(cells[OURS], PEAK)
        sizes = {m: _value(cells[m], PEAK) for m in others}
        counted = {m: (size, size) for m, size in sizes.items() if math.isfinite(size)}
        against = [f"{m} {size:.3f}" for m, (size, _) in counted.items()]
        found.append(_verdict("bytes", counted, mine, [*against, f"{OURS} {mine:.3f}"]))
    return found


def _verdict(
    what: str, among: dict[str, tuple[float, float]], ours: float, against: list[str]
) -> str:
    """Of others' intervals and our value."""
    if not among:
        return f"First in {what}, zeroth order: nothing was measured beside {OURS}."
    told = f"{OURS} (ezo's)"
    if before := [m for m, (_, high) in among.items() if high < ours]:
        told = f"{', '.join(before)} before ezo's {OURS}"
    elif level := [m for m, (low, _) in among.items() if low <= ours]:
        told += f", level with {', '.join(level)}"
    return f"First in {what}, zeroth order: {told}. {'; '.join(against)}."


def _value(cell: dict[str, Row], metric: str) -> float:
    value = cell[metric].value if metric in cell else None
    return math.inf if value is None else value


def _bounds(cell: dict[str, Row], metric: str) -> tuple[float, float]:
    config = cell[metric].config if metric in cell else {}
    return config.get("low", math.inf), config.get("high", math.inf)


def _shown(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "-"
