"""Fine-tuning: does it bring anything?"""

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding, finding
from reproduce.select import groups, history, value

CLAIM = Claim(
    id="fine-tune",
    text="Works for fine-tuning: test accuracy on the rotated data after fine-tuning minus before",
    printed="qualitative",
    low=-rules.MARGINS["fine-tune"].size,
    high=float("inf"),
    unit="points",
    needs="test_accuracy at step 0 and at the end of runs that start from a run on the unrotated "
    "data, at least 3 seeds",
    statistic="mean over seeds of last minus first, 95 % Student interval",
)
METHODS = ("full-zo", "elastic-1", "elastic-2")


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Every method that has ZO layers, on every pair of data sets."""
    runs = history(rows, "test_accuracy", "fine-tuning")
    findings = []
    for group in groups(runs):
        for method in METHODS:
            mine = [found for k, found in sorted(runs.items()) if k[:4] == (*group, method)]
            if mine:
                findings.append(
                    finding(
                        CLAIM,
                        f"{method}, {group}",
                        [value(found[-1]) - value(found[0]) for found in mine],
                        full and group.data.startswith(rules.PAPER_DATA),
                        tuple(found[0].case for found in mine),
                    )
                )
    return findings
