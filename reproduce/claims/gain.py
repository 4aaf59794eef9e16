"""Accuracy: ElasticZO's gain over full ZO."""

from ezo.rows import Row
from reproduce.judge import PAPER_DATA, Claim, Finding, finding
from reproduce.select import accuracy_differences

CLAIM = Claim(
    id="gain",
    text="ElasticZO's test accuracy lies above full ZO's",
    printed="+5.2 to +9.5 points",
    low=5.2,
    high=9.5,
    unit="points",
    needs="final test_accuracy of full-zo, elastic-1 and elastic-2, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed, 95 % Student "
    "interval",
    tolerance="the interval: contradicted only when all of it lies below 5.2, exceeded only when "
    "all of it lies above 9.5; reproduced when the mean is 5.2 or more and the interval excludes 0",
    neutral=0.0,
)
PAIRS = [("elastic-1", "full-zo"), ("elastic-2", "full-zo")]

KINDS = ("training", "long")


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return [
        finding(CLAIM, comparison, samples, full and group.data in PAPER_DATA, cases)
        for which in KINDS
        for group, comparison, samples, cases in accuracy_differences(rows, PAIRS, which)
    ]
