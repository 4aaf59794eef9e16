"""What the report opens with: the scorecard, and a table each of accuracy and of costs."""

import statistics
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding, interval
from reproduce.select import SHAPE, cells, final, groups, value
from reproduce.tables import Judged, Line
from reproduce.words import PRECISIONS, data_order, method_order, said

ROOT = Path(__file__).resolve().parent.parent
# What else a reader must see beside a sentence: (claim, comparison); it decides nothing.
ALSO = {"gain": ("ablation", "elastic-2 minus tail-only-2, lenet5 on {data}, fp32")}
COSTS_OF = ("inference", "full-zo", "elastic-1", "elastic-2", "elastic-lean-3", "full-bp")


class Score(NamedTuple):
    """A sentence of the abstract with the finding that decides it, and what stands beside it."""

    sentence: rules.Sentence
    claim: Claim
    compared: str
    line: Line | None  # None where it has no rows
    beside: list[Line]

    @property
    def verdict(self) -> str:
        return self.line.finding.verdict if self.line else "not run"


class Stamp(NamedTuple):
    """Which rules: the commit of their file and its date, or words where there is none."""

    commit: str
    date: str


def scorecard(judged: Iterable[Judged], data: str) -> list[Score]:
    """One line for each of `rules.PRIMARY`.

    Args:
        judged: every claim with its findings.
        data: that the preset's primary comparisons are on.
    """
    by_claim = {each.claim.id: each for each in judged}
    scores = []
    for sentence in rules.PRIMARY:
        claim, _, lines = by_claim[sentence.claim]
        found = {line.finding.comparison: line for line in lines}
        compared = sentence.compared.format(data=data)
        beside = [found.get(text.format(data=data)) for text in sentence.beside]
        if sentence.claim in ALSO:
            other, text = ALSO[sentence.claim]
            of_other = {x.finding.comparison: x for x in by_claim[other].lines}
            beside.insert(0, of_other.get(text.format(data=data)))
        scores.append(
            Score(sentence, claim, compared, found.get(compared), [x for x in beside if x])
        )
    return scores


def tally(scores: list[Score]) -> str:
    """How many sentences have each verdict, the most frequent first.

    >>> tally([])
    'none'
    """
    count = Counter(score.verdict for score in scores)
    return ", ".join(f"{n} {verdict}" for verdict, n in count.most_common()) or "none"


def exploratory(findings: Iterable[Finding], scores: Iterable[Score]) -> tuple[int, int, float]:
    """How many findings are exploratory, how many of them have a verdict from an interval, and how
    many of these chance alone would put on the claim's side.
    """
    primary = {(score.claim.id, score.compared) for score in scores}
    rest = [
        f for f in findings if (f.claim, f.comparison) not in primary and f.verdict != "not run"
    ]
    decided = ("reproduced", "exceeded", "undecided", "contradicted")
    sampled = [f for f in rest if f.verdict in decided and f.seeds > 1]
    return len(rest), len(sampled), rules.expected_by_chance(len(sampled))


def stamp(root: Path = ROOT) -> Stamp:
    """The last commit of the rules' file, as git knows it."""
    name = "reproduce/rules.py"
    git = ["git", "-C", str(root)]
    try:
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", name], capture_output=True, text=True, check=True
        ).stdout
        told = subprocess.run(
            [*git, "log", "-1", "--format=%h %cs", "--", name],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return Stamp("unknown (no repository here)", "unknown")
    if changed or len(told) != 2:
        return Stamp("not committed yet", "today")
    return Stamp(*told)


class SmallTable(NamedTuple):
    """A table near the top: where, what, and lines of cells, the first of them the head."""

    id: str
    title: str
    about: str
    lines: list[list[str]]


def small_tables(rows: list[Row]) -> list[SmallTable]:
    """Accuracy and costs, where there are rows."""
    found = [
        SmallTable(
            "accuracy",
            "Accuracy",
            "Final test accuracy (%), mean over seeds and half of its 95 % Student interval. Below "
            "each elastic-k stands tail-only-k, its frozen control.",
            accuracy_table(rows),
        ),
        SmallTable(
            "costs",
            "Memory and time of a step",
            "Exact tensor bytes and the whole heap at the peak, in brackets how many times those "
            "of inference in the same precision; median time in one thread"
            + (f" of {name}." if (name := _processor(rows)) else "."),
            costs_table(rows),
        ),
    ]
    return [table for table in found if table.lines]


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
                    f"{said(data)} ({said(model)})",
                    method,
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


def costs_table(rows: list[Row]) -> list[list[str]]:
    """Bytes, heap and time of a step by model, precision and method, at the memory cells' batch.

    Returns:
        A head, then lines. Bytes and heap stand with how many times those of inference in the same
        precision they are; time is the median on one thread, where it was measured at that batch.
    """
    peaks, heaps = cells(rows, "peak_tensor_bytes"), cells(rows, "heap_peak_bytes")
    processor = _processor(rows)
    lines = [["model", "precision", "method", "tensors (B)", "heap (B)", "step (ms)"]]
    for cell in sorted({cell for cell, _, _ in peaks}):
        for precision in PRECISIONS:
            at = {m: (cell, precision, m) for m in COSTS_OF if (cell, precision, m) in peaks}
            for method, key in at.items():
                lines.append(
                    [
                        f"{said(cell.model)}, {cell.config}",
                        said(precision),
                        method,
                        _over(peaks, key, at),
                        _over(heaps, key, at),
                        _milliseconds(rows, peaks[key], processor),
                    ]
                )
    return lines if len(lines) > 1 else []


def _over(found: dict[Any, Row], key: Any, at: dict[str, Any]) -> str:
    if key not in found:
        return "-"
    text = f"{value(found[key]):,.0f}"
    base = found.get(at.get("inference"))
    return text + (f" ({value(found[key]) / value(base):.3f}x)" if base else "")


def _milliseconds(rows: list[Row], peak: Row, processor: str) -> str:
    """The median of a step's rounds in one thread, of the same method, precision and input."""
    names = (*SHAPE, "chunk")
    shape = [peak.config.get(name) for name in names]
    same = (peak.model, peak.method, peak.precision, peak.device, processor)
    times = [
        value(row)
        for row in _timed(rows)
        if (row.model, row.method, row.precision, row.device, row.processor) == same
        and [row.config.get(name) for name in names] == shape
    ]
    return f"{1e3 * statistics.median(times):.2f}" if times else "-"


def _timed(rows: list[Row]) -> Iterator[Row]:
    """Steps on one thread, of fp32 in torch's usual layout."""
    for row in rows:
        usual = row.config.get("layout", "contiguous") == "contiguous"
        timed = row.metric in ("turn_seconds", "step_seconds") and row.value
        if timed and row.threads == 1 and usual:
            yield row


def _processor(rows: list[Row]) -> str:
    """The one on which most steps were timed, so that a column's times can be compared."""
    steps = {(r.model, r.method, r.precision, r.processor) for r in _timed(rows)}
    count = Counter(processor for *_, processor in sorted(steps))
    return count.most_common(1)[0][0] if count else ""
