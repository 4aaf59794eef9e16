"""Speed: how many forward passes ElasticZO needs for the accuracy that full ZO ends with."""

import math

from ezo.rows import Row
from reproduce import budgets, rules
from reproduce.judge import Claim, Finding, finding
from reproduce.select import Key, final, groups, history, seeds_of, value

CLAIM = Claim(
    id="convergence",
    text="ElasticZO converges faster than full ZO: passes of full ZO's whole run over those that "
    "ElasticZO needs to reach the same test accuracy",
    printed="qualitative",
    low=1.0,
    high=float("inf"),
    unit="x",
    needs="test_accuracy and forward_passes after each epoch of full-zo and elastic-k, at least 3 "
    "seeds",
    statistic="for each seed, full ZO's forward passes over ElasticZO's at the first evaluation "
    "that is no worse than full ZO's last; geometric mean, 95 % Student interval of the "
    "logarithms. A run is evaluated once an epoch, so that a seed's number lies between two: the "
    "estimate is the lower, against ElasticZO, and the interval ends above the upper. A run that "
    "is there at its first evaluation has no upper end: the estimate is then a lower bound. A run "
    "that never gets there has no such number",
    strict=True,
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    accuracy, passes = history(rows, "test_accuracy"), history(rows, "forward_passes")
    ends = final(rows, "test_accuracy")
    findings = []
    for group in groups(ends):
        for method in ("elastic-1", "elastic-2"):
            spans, taken = [], []
            for seed in seeds_of(ends, group, "full-zo", method):
                zo, ours = Key(*group, "full-zo", seed), Key(*group, method, seed)
                if zo not in passes or ours not in passes:
                    continue
                spent = {row.step: value(row) for row in passes[ours]}
                there = [
                    (spent[row.step], value(row)) for row in accuracy[ours] if row.step in spent
                ]
                spans.append(speedup(value(passes[zo][-1]), value(ends[zo]), there))
                taken += [ends[zo], ends[ours]]
            if spans:
                first = sum(math.isinf(high) for _, high in spans)
                findings.append(
                    finding(
                        CLAIM,
                        f"{method} against full-zo, {group}",
                        [low for low, _ in spans],
                        full and group.data in rules.PAPER_DATA,
                        tuple(row.case for row in taken),
                        ratio=True,
                        upper=[high for _, high in spans],
                        note=f"there by the first evaluation: {first} of {len(spans)} seeds"
                        if first
                        else "",
                        unfair=budgets.unequal(taken),
                        void=rules.no_baseline(taken),
                    )
                )
    return findings


def speedup(
    passes: float, goal: float, evaluations: list[tuple[float, float]]
) -> tuple[float, float]:
    """``passes`` over those until ``goal`` is reached: the two ends between which it lies.

    Args:
        passes: of the other method's whole run.
        goal: accuracy.
        evaluations: (passes until then, accuracy), in their order.

    Returns:
        By the first evaluation at the goal, and by the one before it: infinite where there is
        none. NaN, twice, where no evaluation is at the goal.

    >>> speedup(60.0, 80.0, [(10.0, 70.0), (20.0, 85.0)])
    (3.0, 6.0)
    """
    before = 0.0
    for spent, accuracy in evaluations:
        if accuracy >= goal:
            return passes / spent, passes / before if before else math.inf
        before = spent
    return math.nan, math.nan
