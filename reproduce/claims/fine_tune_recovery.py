"""Fine-tuning: how much of what full BP recovers ElasticZO recovers."""

import math
from collections.abc import Iterator

from ezo.rows import Row
from reproduce import budgets, rules
from reproduce.judge import Claim, Finding, finding
from reproduce.select import Key, at_length, final, groups, history, seeds_of, value

CLAIM = Claim(
    id="fine-tune-recovery",
    text="Fine-tuning by ElasticZO recovers at least 80 % of the accuracy that full BP recovers",
    printed="",
    low=80.0,
    high=float("inf"),
    unit="%",
    needs="test_accuracy at step 0 and at the end of fine-tuning by elastic-k and full-bp from "
    "the same weights, at least 3 seeds",
    statistic="100 (elastic - before) / (full-bp - before) for each seed; mean, 95 % Student "
    "interval; one query a step, or as many as are named, in as many epochs. The runs with more "
    "queries were added when one query had missed the target",
    source="our own target",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    runs = history(rows, "test_accuracy", "fine-tuning")
    of_bp = {run: found for run, found in runs.items() if run.method == "full-bp"}
    return [
        found
        for which in ("fine-tuning", "fine-tuning-queries")
        for found in _findings(final(rows, "test_accuracy", which), of_bp, full)
    ]


def _findings(ends: dict[Key, Row], of_bp: dict[Key, list[Row]], full: bool) -> Iterator[Finding]:
    """Of runs that ended so, beside full BP's from the same weights."""
    for group in groups(ends):
        for method in ("elastic-1", "elastic-2"):
            samples, taken = [], []
            for seed in seeds_of(ends, group, method):
                ours = ends[Key(*group, method, seed)]
                bp = of_bp.get(Key(*group, "full-bp", seed))
                if bp:
                    gained, recovered = value(bp[-1]) - value(bp[0]), value(ours) - value(bp[0])
                    samples.append(100 * recovered / gained if gained > 0 else math.nan)
                    taken += [ours, bp[-1]]
            if samples:
                yield finding(
                    CLAIM,
                    f"{method} over full-bp, {group}{at_length(taken)}",
                    samples,
                    full and group.data.startswith(rules.PAPER_DATA),
                    tuple(row.case for row in taken),
                    unfair=budgets.unequal(taken),
                )
