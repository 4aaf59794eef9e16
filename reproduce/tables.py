"""The report's tables, from rows alone, and the same for LaTeX."""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ezo import catalogue
from ezo.files import clean, write_text
from ezo.rows import Row
from reproduce.figures._style import order
from reproduce.judge import Claim, Finding, interval
from reproduce.select import final, groups, value, variants
from reproduce.words import of_ours

HYPERS = (
    *("epochs", "batch_size", "queries", "lr", "eps", "clip", "bp_lr", "momentum", "schedule"),
    *("lr_node", "sigma"),
    *("rate", "r_max", "p_zero", "magnitude", "largest_difference"),
    *("fraction", "mu", "mu_drop", "growth", "zo_growth"),
)
OF_ALL = ("epochs", "batch_size")
PLAIN = ("reproduced", "exceeded", "indication only")  # verdicts whose comparisons are only counted


class Accuracy(NamedTuple):
    """Final accuracy of a method: text with its interval, and the runs behind it."""

    experiment: str
    model: str
    data: str
    precision: str
    method: str
    text: str
    seeds: int
    cases: tuple[str, ...]


class RunLine(NamedTuple):
    """Where a case's rows lie, and how it ended."""

    number: int  # from 1, in the order of the rows
    case: str
    ranges: list[tuple[int, int]]  # first and last line of rows.jsonl, from 1
    end: str
    commits: str

    @property
    def lines(self) -> str:
        """The ranges as text."""
        return spans(self.ranges)


class Line(NamedTuple):
    """A finding as it stands in the report."""

    anchor: str  # what a link to it names
    finding: Finding
    estimate: str


class Count(NamedTuple):
    """How many comparisons of a claim have a verdict, and which of them to name.

    Attributes:
        verdict, number: which, how many.
        named: the comparisons where the claim is not met.
        found: of the others, the lowest and the highest estimate with its interval.
    """

    verdict: str
    number: int
    named: list[Line]
    found: str


class Judged(NamedTuple):
    """A claim with what the rows show of it; no lines where it was not run."""

    claim: Claim
    counts: list[Count]
    lines: list[Line]


def estimate(claim: Claim, finding: Finding) -> str:
    """The estimate, its unit and its interval as text; signed where it may be below 0."""
    if finding.value is None or finding.low is None or finding.high is None:
        return "-"
    sign = "" if claim.unit in ("x", "operations") else "+"
    most = 2 if finding.seeds > 1 and claim.unit in ("points", "%") else 8
    value, low, high = _alike((finding.value, finding.low, finding.high), sign, most)
    head = f"{finding.bound} {value} {claim.unit}".lstrip()
    if finding.seeds == 1:
        return f"{head} (exact)" if low == high else f"{head} (one sample, no interval)"
    return f"{head} [{low} or more]" if finding.high == math.inf else f"{head} [{low}, {high}]"


def _alike(numbers: Sequence[float], sign: str, most: int = 8) -> list[str]:
    """Numbers with as many decimals each, at most so many, so that the largest has four digits at
    least; none where all are whole.

    >>> _alike((12.4, 11.9, 12.911), "+"), _alike((20, 20, math.inf), "")
    (['+12.40', '+11.90', '+12.91'], ['20', '20', 'inf'])
    """
    finite = [abs(x) for x in numbers if math.isfinite(x)]
    whole = all(abs(x - round(x)) < 1e-9 * max(x, 1) for x in finite)
    decimals = 0 if whole else min(most, max(0, 3 - math.floor(math.log10(max(finite)))))
    return [f"{x:{sign if x else ''}.{decimals}f}" for x in numbers]


def judged(claims: Iterable[Claim], findings: list[Finding]) -> list[Judged]:
    """Every claim with its verdicts counted, and a line for each comparison.

    What is ours is not counted among the comparisons of a claim that the paper makes.
    """
    found = []
    for claim in claims:
        mine = [f for f in findings if f.claim == claim.id and f.verdict != "not run"]
        lines = [
            Line(f"finding-{claim.id}-{n}", finding, estimate(claim, finding))
            for n, finding in enumerate(mine, start=1)
        ]
        own = [x for x in lines if not (claim.printed and of_ours(x.finding.comparison))]
        found.append(Judged(claim, _counts(own), lines))
    return found


def _counts(lines: list[Line]) -> list[Count]:
    """The verdicts, the most frequent first; comparisons are named where the claim is not met."""
    by_verdict: dict[str, list[Line]] = {}
    for line in lines:
        by_verdict.setdefault(line.finding.verdict, []).append(line)
    return [
        Count(verdict, len(mine), [], _extremes(mine))
        if verdict in PLAIN
        else Count(verdict, len(mine), mine, "")
        for verdict, mine in sorted(by_verdict.items(), key=lambda item: -len(item[1]))
    ]


def _extremes(lines: list[Line]) -> str:
    valued = [(x.finding.value, n) for n, x in enumerate(lines) if x.finding.value is not None]
    ends = [min(valued), max(valued)] if valued else []
    return " to ".join(dict.fromkeys(lines[n].estimate for _, n in ends))


def accuracies(rows: list[Row]) -> Iterator[Accuracy]:
    """Final test accuracy of every method, for each of `select.variants`."""
    for which, name, own in variants(rows):
        ends = final(own, "test_accuracy", which)
        for group in groups(ends):
            for method in order(k.method for k in ends if k[:3] == group):
                runs = [row for k, row in sorted(ends.items()) if k[:4] == (*group, method)]
                mean, low, high = interval([value(row) for row in runs])
                spread = "" if len(runs) == 1 else f" [{low:.2f}, {high:.2f}]"
                yield Accuracy(
                    name,
                    *group,
                    method,
                    f"{mean:.2f}{spread}",
                    len(runs),
                    tuple(row.case for row in runs),
                )


def hypers(rows: list[Row]) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """(model, data, precision, method, config) of every kind of training run."""
    seen = set()
    for which, name, own in variants(rows):
        for run, row in sorted(final(own, "test_accuracy", which).items()):
            if (name, *run[:4]) not in seen:
                seen.add((name, *run[:4]))
                read = _read(run.method, run.precision)
                yield (
                    *run[:4],
                    {name: row.config.get(name, "-") if name in read else "-" for name in HYPERS},
                )


def _read(method: str, precision: str) -> set[str]:
    """Names of the settings that a run reads: all, of a method that is not here."""
    try:
        return {*OF_ALL, *catalogue.find("precision", precision).reads(method)}
    except ValueError:
        return set(HYPERS)


def run_lines(rows: list[Row]) -> list[RunLine]:
    """Every case, in the order of the rows."""
    places: dict[str, list[int]] = {}
    for n, row in enumerate(rows, start=1):
        places.setdefault(row.case, []).append(n)
    return [
        RunLine(
            number,
            case,
            ranges(lines),
            _end(rows[lines[-1] - 1]),
            ", ".join(dict.fromkeys(rows[n - 1].commit[:10] for n in lines)),
        )
        for number, (case, lines) in enumerate(places.items(), start=1)
    ]


def _end(row: Row) -> str:
    """How a case with this last row ended."""
    if row.metric in ("finished", "diverged", "failed"):
        return row.metric
    return "measured" if row.seed is None else "stopped"


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Runs of successive numbers: first and last of each.

    >>> ranges([4, 1, 2, 3, 7])
    [(1, 4), (7, 7)]
    """
    found: list[tuple[int, int]] = []
    for n in sorted(set(numbers)):
        if found and n == found[-1][1] + 1:
            found[-1] = (found[-1][0], n)
        else:
            found.append((n, n))
    return found


def spans(found: list[tuple[int, int]]) -> str:
    """Ranges as text.

    >>> spans([(1, 4), (7, 7)])
    '1 to 4, 7'
    """
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in found)


def latex(folder: Path, claims: list[Judged], accuracy: list[Accuracy]) -> None:
    """Write ``claims.tex``, without what was not run, and ``accuracy.tex``; both for booktabs."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "claims": pd.DataFrame(
            {
                "Claim": each.claim.id,
                "Printed": each.claim.printed or "(ours)",
                "Compared": line.finding.comparison,
                "Found": line.estimate,
                "Samples": line.finding.seeds,
                "Verdict": line.finding.verdict,
            }
            for each in claims
            for line in each.lines
        ),
        "accuracy": pd.DataFrame(
            {
                "Experiment": line.experiment,
                "Model": line.model,
                "Data": line.data,
                "Precision": line.precision,
                "Method": line.method,
                r"Accuracy (\%)": line.text,
                "Seeds": line.seeds,
            }
            for line in accuracy
        ),
    }
    clean(folder)
    for name, table in tables.items():
        if table.empty:
            (folder / f"{name}.tex").unlink(missing_ok=True)  # of rows that are there no more
        else:
            text = table.style.format(escape="latex").hide(axis="index").to_latex(hrules=True)
            write_text(folder / f"{name}.tex", text)
