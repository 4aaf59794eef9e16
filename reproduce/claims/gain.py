"""Accuracy: ElasticZO's gain over full ZO."""

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding
from reproduce.pairs import findings

PRINTED = 5.2  # points, the lower end
CLAIM = Claim(
    id="gain",
    text="ElasticZO's test accuracy lies above full ZO's",
    printed="+5.2 to +9.5 points",
    low=PRINTED - rules.MARGINS["gain"].size,
    high=9.5,
    unit="points",
    needs="final test_accuracy of full-zo, elastic-1 and elastic-2, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed, 95 % Student "
    "interval",
)
PAIRS = [("elastic-1", "full-zo"), ("elastic-2", "full-zo")]

KINDS = ("training", "long")


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return findings(CLAIM, rows, PAIRS, full, kinds=KINDS)
