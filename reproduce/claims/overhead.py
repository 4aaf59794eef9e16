"""Memory: what the BP layers cost over full ZO."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding, peak_ratios

CLAIM = Claim(
    id="overhead",
    text="ElasticZO's training memory over full ZO's (exact tensor bytes at the peak)",
    printed="+0.072 % to +1.7 %",
    low=float("-inf"),
    high=1.7,
    unit="%",
)
PAIRS = [("elastic-1", "full-zo"), ("elastic-2", "full-zo")]


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    return [
        finding(CLAIM, comparison, [value], full, cases, exact=True)
        for comparison, value, cases in peak_ratios(rows, PAIRS)
    ] or [finding(CLAIM, "elastic-k over full-zo", [], full, ())]
