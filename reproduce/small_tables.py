"""The tables near the report's top: final accuracy, and what a step costs."""

import statistics
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import interval
from reproduce.opening import COMPARED_WITH_ITS_CONTROL
from reproduce.select import SHAPE, Cell, Group, Key, cells, final, groups, seeds_of, value
from reproduce.words import PRECISIONS, data_order, method_order, ours, said

COSTS_OF = ("inference", "full-zo", "elastic-1", "elastic-2", "elastic-lean-3", "full-bp")


class SmallTable(NamedTuple):
    """A table near the top: where, what, and lines of cells, the first of them the head.

    Attributes:
        headings: how many of the first columns are the same over many lines, and may stand above
            these in place of in them.
        folded: whether a page shows it on demand.
    """

    id: str
    title: str
    about: str
    lines: list[list[str]]
    headings: int
    folded: bool = False

    def parts(self) -> list[tuple[str, list[list[str]]]]:
        """The lines by what their first columns say, without these."""
        found: dict[str, list[list[str]]] = {}
        for line in self.lines[1:]:
            above = ", ".join(line[: self.headings])
            found.setdefault(above, []).append(line[self.headings :])
        return list(found.items())


def small_tables(rows: list[Row]) -> list[SmallTable]:
    """Accuracy and costs, where there are rows."""
    where = f", on {name}" if (name := _processor(rows)) else ""
    about = (
        "Exact tensor bytes and the whole heap at the peak, in brackets how many times those of "
        f"inference in the same precision; median time in one thread{where}."
    )
    found = [
        SmallTable(
            "accuracy",
            "Accuracy",
            "Final test accuracy (%), mean over seeds and half of its 95 % Student interval. Where "
            "it was run, tail-only-k, the frozen control, stands below its elastic-k. More passes "
            "at the same number of epochs are more queries a step. INT8* is INT8 with the loss in "
            "floating point; (ours): no part of the paper.",
            accuracy_table(rows),
            headings=1,
        ),
        SmallTable(
            "costs",
            "Memory and time of a step",
            f"{about} FP32's time is torch's usual way, and in brackets the fastest of all ways "
            f"that were measured, which is what INT8's time is judged against. {_beside_bp(rows)}",
            costs_table(rows),
            headings=2,
        ),
        SmallTable(
            "streamed",
            "Memory and time of a step that is streamed",
            f"{about} The first layers take as many examples at a time as the chunk says.",
            costs_table(rows, streamed=True),
            headings=2,
            folded=True,
        ),
    ]
    return [table for table in found if table.lines]


def _beside_bp(rows: list[Row]) -> str:
    """How long a step of ElasticZO takes beside full BP's, the fastest way of each."""
    found = _time_over(rows, "full-bp")
    if not found:
        return ""
    cell, ratio = found
    return (
        f"In FP32 a step of {COMPARED_WITH_ITS_CONTROL} takes {ratio:.2f} times that of "
        f"full-bp ({said(cell.model)}, the fastest way of each)."
    )


def _time_over(rows: list[Row], other: str) -> tuple[Cell, float] | None:
    """Where both were measured in fp32, and the time of ElasticZO's step over another's, the
    fastest way of each.
    """
    peaks, processor = cells(rows, "peak_tensor_bytes"), _processor(rows)
    for cell in _cells(peaks, streamed=False):
        ways = [
            _ways(rows, peaks[cell, "fp32", method], processor)
            for method in (COMPARED_WITH_ITS_CONTROL, other)
            if (cell, "fp32", method) in peaks
        ]
        if len(ways) == 2 and all(ways):
            return cell, min(ways[0].values()) / min(ways[1].values())
    return None


def trade_off(rows: list[Row], data: str) -> str:
    """What ElasticZO costs and brings in fp32 beside full ZO and full BP, in words; or nothing.

    Args:
        rows: of runs and of measurements.
        data: that accuracy is compared on.
    """
    ends, peaks = final(rows, "test_accuracy"), cells(rows, "peak_tensor_bytes")
    told = []
    for other in ("full-bp", "full-zo"):
        timed = _time_over(rows, other)
        if not timed:
            continue
        cell, time = timed
        group = Group(cell.model, data, "fp32")
        seeds = seeds_of(ends, group, COMPARED_WITH_ITS_CONTROL, other)
        if not seeds:
            continue
        points = statistics.fmean(
            value(ends[Key(*group, COMPARED_WITH_ITS_CONTROL, seed)])
            - value(ends[Key(*group, other, seed)])
            for seed in seeds
        )
        mine, theirs = (
            value(peaks[cell, "fp32", method]) for method in (COMPARED_WITH_ITS_CONTROL, other)
        )
        told.append(
            f"beside {other} {points:+.2f} points of accuracy, {mine / theirs:.3f} times the "
            f"bytes and {time:.2f} times the time of a step"
        )
    if not told:
        return ""
    return f"{COMPARED_WITH_ITS_CONTROL} in FP32 has {'; and '.join(told)}."


def accuracy_table(rows: list[Row]) -> list[list[str]]:
    """Final test accuracy by data and method: a control stands below what it controls.

    Returns:
        A head, then lines: data, method, seeds, forward passes (thousands), and a cell for each
        precision, the mean with half its 95 % interval.
    """
    ends, passes = final(rows, "test_accuracy"), final(rows, "forward_passes")
    precisions = data_order(dict.fromkeys(group.precision for group in groups(ends)))
    lines = [
        ["data", "method", *map(said, precisions), "seeds", "forward passes (thousands)"],
    ]
    pairs = {(group.data, group.model) for group in groups(ends)}
    place = data_order({data for data, _ in pairs}).index
    for data, model in sorted(pairs, key=lambda pair: (place(pair[0]), pair[1])):
        mine = {k for k in ends if k[:2] == (model, data)}
        for method in method_order(k.method for k in mine):
            keys = [sorted(k for k in mine if k[2:4] == (p, method)) for p in precisions]
            counts = sorted({len(found) for found in keys if found})
            spent = {round(value(passes[k]) / 1e3, 1) for f in keys for k in f if k in passes}
            lines.append(
                [
                    f"{said(data)} ({said(model)}); guessing gives {rules.chance_of(data):g} %",
                    ours(method),
                    *(_mean([value(ends[k]) for k in found]) for found in keys),
                    " or ".join(map(str, counts)),
                    " or ".join(f"{n:g}" for n in sorted(spent)),
                ]
            )
    return lines if len(lines) > 1 else []


def _mean(values: list[float]) -> str:
    if not values:
        return "-"
    mean, _, high = interval(values)
    return f"{mean:.2f}" + (f" ± {high - mean:.2f}" if len(values) > 1 else "")


def costs_table(rows: list[Row], *, streamed: bool = False) -> list[list[str]]:
    """Bytes, heap and time of a step by model, precision and method, at the memory cells' batch.

    Args:
        streamed: those of steps that take a few examples at a time, in place of the others.

    Returns:
        A head, then lines. Bytes and heap stand with how many times those of inference in the same
        precision they are; time is the median on one thread, where it was measured at that batch.
    """
    peaks, heaps = cells(rows, "peak_tensor_bytes"), cells(rows, "heap_peak_bytes")
    processor = _processor(rows)
    lines = [["model", "precision", "method", "tensors (MB)", "heap (MB)", "step (ms)"]]
    for cell in _cells(peaks, streamed=streamed):
        for precision in PRECISIONS:
            at = {m: (cell, precision, m) for m in COSTS_OF if (cell, precision, m) in peaks}
            for method, key in at.items():
                lines.append(
                    [
                        f"{said(cell.model)}, {cell.config}",
                        said(precision),
                        ours(method),
                        _over(peaks, key, at),
                        _over(heaps, key, at),
                        _milliseconds(_ways(rows, peaks[key], processor)),
                    ]
                )
    return lines if len(lines) > 1 else []


def _cells(peaks: dict[tuple[Cell, str, str], Row], *, streamed: bool) -> list[Cell]:
    """By model and chunk, those that are streamed or those that are not."""
    chunks = {cell: row.config.get("chunk") or 0 for (cell, _, _), row in peaks.items()}
    wanted = [cell for cell, chunk in chunks.items() if bool(chunk) == streamed]
    return sorted(wanted, key=lambda cell: (cell.model, chunks[cell], cell))


def _over(found: dict[Any, Row], key: Any, at: dict[str, Any]) -> str:
    if key not in found:
        return "-"
    text = f"{value(found[key]) / 1e6:#.4g}"
    base = found.get(at.get("inference"))
    return text + (f" ({value(found[key]) / value(base):.3f}x)" if base else "")


def _ways(rows: list[Row], peak: Row, processor: str) -> dict[str, float]:
    """Median milliseconds of a step's rounds in one thread, of the same method, precision and
    input, by the way in which it was run: ``contiguous`` is torch's usual one.
    """
    names = (*SHAPE, "chunk")
    shape = [peak.config.get(name) for name in names]
    same = (peak.model, peak.method, peak.precision, peak.device, processor)
    times: dict[str, list[float]] = {}
    for row in _timed(rows):
        alike = (row.model, row.method, row.precision, row.device, row.processor) == same
        if alike and [row.config.get(name) for name in names] == shape:
            way = row.config.get("layout", "contiguous")
            times.setdefault(way, []).append(1e3 * value(row))
    return {way: statistics.median(found) for way, found in times.items()}


def _milliseconds(ways: dict[str, float]) -> str:
    """Of the usual way, and in brackets of the fastest, where that is another."""
    if "contiguous" not in ways:
        return "-"
    usual, fastest = ways["contiguous"], min(ways, key=lambda way: ways[way])
    other = f" ({ways[fastest]:.2f}, {fastest})" if ways[fastest] < usual else ""
    return f"{usual:.2f}{other}"


def _timed(rows: list[Row]) -> Iterator[Row]:
    """Steps on one thread."""
    for row in rows:
        if row.metric in ("turn_seconds", "step_seconds") and row.value and row.threads == 1:
            yield row


def _processor(rows: list[Row]) -> str:
    """The one on which most steps were timed, so that a column's times can be compared."""
    usual = (r for r in _timed(rows) if r.config.get("layout", "contiguous") == "contiguous")
    steps = {(r.model, r.method, r.precision, r.processor) for r in usual}
    count = Counter(processor for *_, processor in sorted(steps))
    return count.most_common(1)[0][0] if count else ""
