"""Ours: the memory of node perturbation against inference."""

from ezo.rows import Row
from reproduce.judge import OURS, Claim, Finding, finding
from reproduce.select import peak_excess

CLAIM = Claim(
    id="node-memory",
    text="Node perturbation and learned feedback, too, need almost the memory of inference; what "
    "they need more",
    printed="",
    low=float("-inf"),
    high=2.0,
    unit="%",
    needs="peak_tensor_bytes of inference and full-zo-node or full-zo-feedback",
    statistic="the ratio of two exact byte counts, minus one",
    better="lower",
    source=OURS,
)
PAIRS = [("full-zo-node", "inference"), ("full-zo-feedback", "inference")]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    return [
        finding(CLAIM, comparison, [value], full, cases, exact=True)
        for comparison, value, cases in peak_excess(rows, PAIRS)
    ]
