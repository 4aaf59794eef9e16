"""The report's tables, from rows alone, and the same for LaTeX."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ezo.rows import Row
from ezo.train import Run
from reproduce.figures._style import order
from reproduce.judge import Claim, Finding, interval
from reproduce.select import Group, experiment, final, groups, key, value

HYPERS = (
    *("epochs", "batch_size", "lr", "eps", "clip", "bp_lr", "momentum", "schedule"),
    *("rate", "r_max", "p_zero", "magnitude", "mu", "mu_drop"),
)


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

    case: str
    first: int  # line of rows.jsonl, from 1
    last: int
    end: str
    commit: str


def estimate(claim: Claim, finding: Finding) -> str:
    """The estimate and its interval as text, without a unit; signed where it may be below 0."""
    if finding.value is None or finding.low is None or finding.high is None:
        return "-"
    sign = "" if claim.unit in ("x", "operations") else "+"
    value, low, high = (f"{x:{sign}.4g}" for x in (finding.value, finding.low, finding.high))
    if finding.seeds == 1:
        return f"{value} (exact)" if low == high else f"{value} (one sample, no interval)"
    return f"{value} [{low}, {high}]"


def summary(findings: list[Finding]) -> str:
    """All verdicts on one claim: how many of each."""
    count: dict[str, int] = {}
    for finding in findings:
        count[finding.verdict] = count.get(finding.verdict, 0) + 1
    if len(count) == 1:
        return next(iter(count))
    return ", ".join(f"{verdict}: {n}" for verdict, n in sorted(count.items(), key=lambda x: -x[1]))


def accuracies(rows: list[Row]) -> Iterator[Accuracy]:
    """Final test accuracy of every method: training, fine-tuning, and more queries a step."""
    for which in ("training", "fine-tuning", "queries"):
        ends = final(rows, "test_accuracy", which)
        for group in groups(ends):
            for method in order(k.method for k in ends if k[:3] == group):
                runs = [row for k, row in sorted(ends.items()) if k[:4] == (*group, method)]
                mean, low, high = interval([value(row) for row in runs])
                spread = "" if len(runs) == 1 else f" [{low:.2f}, {high:.2f}]"
                yield Accuracy(
                    which,
                    *group,
                    method,
                    f"{mean:.2f}{spread}",
                    len(runs),
                    tuple(row.case for row in runs),
                )


def hypers(rows: list[Row]) -> Iterator[tuple[str, str, str, str, dict[str, Any]]]:
    """(model, data, precision, method, config) of every kind of training run."""
    seen = set()
    for which in ("training", "fine-tuning"):
        for run, row in sorted(final(rows, "test_accuracy", which).items()):
            if (which, *run[:4]) not in seen:
                seen.add((which, *run[:4]))
                yield *run[:4], {name: row.config.get(name, "-") for name in HYPERS}


def not_run(rows: list[Row], asked: dict[str, list[Run]]) -> list[str]:
    """What was asked for and has no rows, a text for each group.

    Args:
        rows: all there are.
        asked: runs by the kind of their experiment (`reproduce.presets.Preset.runs`).
    """
    there = {(experiment(row), *key(row)) for row in rows if row.seed is not None}
    missing: dict[tuple[str, str], list[str]] = {}
    for kind, runs in asked.items():
        for run in runs:
            group = Group(run.model, run.data, run.precision)
            if (kind, *group, run.method, run.seed) not in there:
                missing.setdefault((kind, str(group)), []).append(f"{run.method} seed {run.seed}")
    return [f"{kind}, {group}: {', '.join(found)}" for (kind, group), found in missing.items()]


def run_lines(rows: list[Row]) -> list[RunLine]:
    """Every case, in the order of the rows."""
    found: dict[str, RunLine] = {}
    for n, row in enumerate(rows, start=1):
        first = found[row.case].first if row.case in found else n
        found[row.case] = RunLine(row.case, first, n, row.metric, row.commit[:10])
    return list(found.values())


def latex(folder: Path, findings: list[tuple[Claim, Finding]], accuracy: list[Accuracy]) -> None:
    """Write ``claims.tex`` and ``accuracy.tex``, tables for booktabs."""
    folder.mkdir(parents=True, exist_ok=True)
    tables = {
        "claims": pd.DataFrame(
            {
                "Claim": claim.id,
                "Printed": claim.printed or "(ours)",
                "Compared": found.comparison,
                "Found": f"{estimate(claim, found)} {claim.unit}",
                "Seeds": found.seeds,
                "Verdict": found.verdict,
            }
            for claim, found in findings
        ),
        "accuracy": pd.DataFrame(
            {
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
    for name, table in tables.items():
        if not table.empty:
            text = table.style.format(escape="latex").hide(axis="index").to_latex(hrules=True)
            (folder / f"{name}.tex").write_text(text, encoding="utf-8")
