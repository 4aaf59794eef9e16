"""Memory: full ZO against inference."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import peak_excess

CLAIM = Claim(
    id="inference-memory",
    text="Full ZO needs almost the memory of inference; what it needs more",
    printed="qualitative (ours: at most 2 %)",
    low=float("-inf"),
    high=2.0,
    unit="%",
    needs="peak_tensor_bytes of inference and full-zo",
    statistic="the ratio of two exact byte counts, minus one",
    better="lower",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    return [
        finding(CLAIM, comparison, [value], full, cases, exact=True)
        for comparison, value, cases in peak_excess(rows, [("full-zo", "inference")])
    ]
