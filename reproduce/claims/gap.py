"""Accuracy: how much of the gap between full ZO and full BP ElasticZO closes."""

import math

from ezo.rows import Row
from reproduce import budgets, rules
from reproduce.judge import Claim, Finding, finding
from reproduce.select import Key, final, groups, seeds_of, value

CLAIM = Claim(
    id="gap",
    text="ElasticZO shrinks the accuracy gap between full ZO and full BP; share of it closed",
    printed="qualitative",
    low=0.0,
    high=float("inf"),
    unit="%",
    needs="final test_accuracy of full-zo, elastic-k and full-bp, at least 3 seeds",
    statistic="100 (elastic - full-zo) / (full-bp - full-zo) for each seed; mean, 95 % Student "
    "interval. Where full BP is not above full ZO there is no gap to close",
    strict=True,
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    ends = final(rows, "test_accuracy")
    findings = []
    for group in groups(ends):
        for method in ("elastic-1", "elastic-2"):
            trio = ("full-zo", method, "full-bp")
            samples, taken = [], []
            for seed in seeds_of(ends, group, *trio):
                runs = [ends[Key(*group, m, seed)] for m in trio]
                zo, ours, bp = map(value, runs)
                samples.append(100 * (ours - zo) / (bp - zo) if bp > zo else math.nan)
                taken += runs
            if samples:
                findings.append(
                    finding(
                        CLAIM,
                        f"{method}, {group}",
                        samples,
                        full and group.data in rules.PAPER_DATA,
                        tuple(row.case for row in taken),
                        unfair=budgets.unequal(taken),
                        void=rules.no_baseline(taken),
                    )
                )
    return findings
