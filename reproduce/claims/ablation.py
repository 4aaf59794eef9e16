"""Accuracy: do the ZO steps on the first layers help at all?"""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, accuracy_differences, finding

CLAIM = Claim(
    id="ablation",
    text="ZO on the first layers helps: better than freezing them at initialisation",
    printed="",
    low=1.0,
    high=float("inf"),
    unit="points",
    source="our own: the ablation that the paper leaves out",
)
PAIRS = [("elastic-1", "tail-only-1"), ("elastic-2", "tail-only-2")]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return [
        finding(CLAIM, comparison, samples, full, cases)
        for comparison, samples, cases in accuracy_differences(rows, PAIRS)
    ] or [finding(CLAIM, "elastic-k minus tail-only-k", [], full, ())]
