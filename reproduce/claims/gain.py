"""Accuracy: ElasticZO's gain over full ZO."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, accuracy_differences, finding

CLAIM = Claim(
    id="gain",
    text="ElasticZO's test accuracy lies above full ZO's",
    printed="+5.2 to +9.5 points",
    low=5.2,
    high=9.5,
    unit="points",
)
PAIRS = [("elastic-1", "full-zo"), ("elastic-2", "full-zo")]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return [
        finding(CLAIM, comparison, samples, full, cases)
        for comparison, samples, cases in accuracy_differences(rows, PAIRS)
    ] or [finding(CLAIM, "elastic-k minus full-zo", [], full, ())]
