"""How claims about the final accuracies of two methods are judged: paired by seed."""

from collections.abc import Iterable, Sequence
from typing import Any

from ezo.rows import Row
from reproduce import budgets, rules
from reproduce.judge import Claim, Finding, finding
from reproduce.select import accuracy_differences, value


def findings(
    claim: Claim,
    rows: list[Row],
    pairs: Sequence[tuple[str, str]],
    full: bool,
    *,
    kinds: Iterable[str] = ("training",),
) -> list[Finding]:
    """Of each pair with rows: the first method's accuracy minus the second's, in points.

    Args:
        pairs: methods, such as ``("elastic-1", "full-zo")``.
        full: whether the rows are of the full preset, so that there can be a verdict; on data that
            the paper does not use there is none.
        kinds: of runs, as `reproduce.select.experiment` names them.
    """
    return [
        finding(
            claim,
            found.comparison,
            found.samples,
            full and found.group.data in rules.PAPER_DATA,
            found.cases,
            unfair=budgets.unequal(found.ends),
            void=rules.no_baseline(found.ends),
        )
        for kind in kinds
        for found in accuracy_differences(rows, pairs, kind)
    ]


def of_pairs(
    claim: Claim,
    comparison: str,
    pairs: Sequence[tuple[Row, Row]],
    full: bool,
    *,
    not_worse: bool = False,
) -> Finding:
    """One finding: the first runs' last accuracies minus the second's, a pair a seed.

    Args:
        not_worse: a one-sided 5 % test of non-inferiority, that is the 90 % interval.
    """
    both = [row for pair in pairs for row in pair]
    how: dict[str, Any] = {"confidence": 0.9, "note": "90 % interval"} if not_worse else {}
    return finding(
        claim,
        comparison,
        [value(a) - value(b) for a, b in pairs],
        full and both[0].data in rules.PAPER_DATA,
        tuple(row.case for row in both),
        unfair=budgets.unequal(both),
        **how,
    )
