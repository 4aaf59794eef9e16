"""Ours: what node perturbation and learned feedback gain over perturbed weights."""

from ezo.rows import Row
from reproduce.judge import OURS, Claim, Finding
from reproduce.pairs import findings

CLAIM = Claim(
    id="node-gain",
    text="In as many passes, perturbing the outputs of linear layers trains better than perturbing "
    "their weights",
    printed="",
    low=0.0,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of full-zo and full-zo-node or full-zo-feedback, or of elastic-k "
    "and elastic-node-k or elastic-feedback-k, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed and as many "
    "epochs, 95 % Student interval",
    strict=True,
    source=OURS,
)
PAIRS = [
    (f"{kind}-{way}{k}", f"{kind}{k}")
    for kind, ks in (("full-zo", ("",)), ("elastic", ("-1", "-2")))
    for k in ks
    for way in ("node", "feedback")
]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Paired by seed, for each number of BP layers."""
    return findings(CLAIM, rows, PAIRS, full)
