"""Accuracy: do the ZO steps on the first layers help at all?"""

from ezo.rows import Row
from reproduce.judge import Claim, Finding
from reproduce.pairs import findings

CLAIM = Claim(
    id="ablation",
    text="ZO on the first layers helps: better than freezing them at initialisation",
    printed="",
    low=0.0,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of tail-only-k and of elastic-k or elastic-lean-k, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed, 95 % Student "
    "interval",
    strict=True,
    source="our own: the ablation that the paper leaves out",
)
PAIRS = [
    *((f"elastic-{k}", f"tail-only-{k}") for k in (1, 2, 3, 4)),
    *((f"elastic-lean-{k}", f"tail-only-{k}") for k in (2, 3)),
]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return findings(CLAIM, rows, PAIRS, full)
