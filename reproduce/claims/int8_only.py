"""Integers alone: floating-point operations in a training step."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import settings, value

CLAIM = Claim(
    id="int8-only",
    text="INT8 training uses integer arithmetic only; floating-point operations in a step",
    printed="qualitative (none)",
    low=float("-inf"),
    high=0.0,
    unit="operations",
    needs="float_operations of a training step in int8",
    statistic="operations of a step that read or write a floating-point tensor",
    better="lower",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Counted, so that one measurement is enough, also one of a reduced preset."""
    return [
        finding(
            CLAIM,
            f"{row.method}, {row.model}, {row.precision}, {settings(row)}",
            [value(row)],
            full,
            (row.case,),
            exact=True,
        )
        for row in rows
        if row.metric == "float_operations" and row.precision == "int8"
    ]
