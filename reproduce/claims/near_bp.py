"""Accuracy: how near elastic-2 comes to full BP."""

from dataclasses import replace

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import accuracy_differences

POINTS = {"mnist": 1.5, "fashion-mnist": 4.0}
CLAIM = Claim(
    id="near-bp",
    text="elastic-2 comes near full BP; how far below it stays",
    printed="",
    low=float("-inf"),
    high=max(POINTS.values()),
    unit="points",
    needs="final test_accuracy of elastic-2, elastic-lean-2 and full-bp on MNIST and "
    "Fashion-MNIST, at least 3 seeds",
    statistic="mean over seeds of full-bp minus elastic-2 (elastic-lean-2, with four queries) with "
    "the same seed, 95 % Student interval",
    tolerance="our targets, 1.5 points on MNIST and 4 on Fashion-MNIST: reproduced when all of the "
    "interval lies below, contradicted when all of it lies above",
    better="lower",
    source="our own target",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed; fp32 only, where the target stands."""
    return [
        finding(replace(CLAIM, high=POINTS[group.data]), comparison, samples, full, cases)
        for group, comparison, samples, cases in accuracy_differences(
            rows, [("full-bp", "elastic-2"), ("full-bp", "elastic-lean-2")]
        )
        if group.data in POINTS and group.precision == "fp32"
    ]
