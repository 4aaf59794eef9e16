"""Ours: what nodes and feedback add to the last layers, which BP trains."""

from ezo.rows import Row
from reproduce.judge import OURS, Claim, Finding
from reproduce.pairs import findings

CLAIM = Claim(
    id="node-share",
    text="Node perturbation of the first layers helps: better than freezing them at initialisation",
    printed="",
    low=0.0,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of tail-only-k and of elastic-node-k or elastic-feedback-k, k of 1 "
    "and 2, or full-zo-feedback, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed, 95 % Student "
    "interval",
    strict=True,
    source=OURS,
)
PAIRS = [(f"elastic-{way}-{k}", f"tail-only-{k}") for k in (1, 2) for way in ("node", "feedback")]
# whose last layer learns from its exact gradient
PAIRS.append(("full-zo-feedback", "tail-only-1"))


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return findings(CLAIM, rows, PAIRS, full)
