"""Memory: what the BP layers cost over full ZO."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import peak_excess

CLAIM = Claim(
    id="overhead",
    text="ElasticZO's training memory over full ZO's (exact tensor bytes at the peak)",
    printed="+0.072 % to +1.7 %",
    low=0.072,
    high=1.7,
    unit="%",
    needs="peak_tensor_bytes of full-zo, elastic-1, elastic-2 and elastic-lean-k",
    statistic="the ratio of two exact byte counts, minus one. The printed range is over models and "
    "splits that the abstract does not tell apart, so less than 0.072 % counts as exceeded. "
    "elastic-lean-k is ours and not the paper's method",
    better="lower",
)
METHODS = ("elastic-1", "elastic-2", "elastic-lean-2", "elastic-lean-3")
PAIRS = [(method, "full-zo") for method in METHODS]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    return [
        finding(CLAIM, comparison, [value], full, cases, exact=True)
        for comparison, value, cases in peak_excess(rows, PAIRS)
    ]
