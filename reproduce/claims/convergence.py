"""Speed: how many forward passes ElasticZO needs for the accuracy that full ZO ends with."""

import math

from ezo.rows import Row
from reproduce.judge import PAPER_DATA, Claim, Finding, finding
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
    "that is no worse than full ZO's last; geometric mean, 95 % Student interval of the logarithms",
    tolerance="the interval: reproduced when all of it lies above 1. Coarse by one epoch, against "
    "ElasticZO. A run that never gets there has no such number",
    neutral=1.0,
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    accuracy, passes = history(rows, "test_accuracy"), history(rows, "forward_passes")
    ends = final(rows, "test_accuracy")
    findings = []
    for group in groups(ends):
        for method in ("elastic-1", "elastic-2"):
            samples, cases = [], []
            for seed in seeds_of(ends, group, "full-zo", method):
                zo, ours = Key(*group, "full-zo", seed), Key(*group, method, seed)
                if zo not in passes or ours not in passes:
                    continue
                goal = value(ends[zo])
                at = {row.step: value(row) for row in passes[ours]}
                reached = [
                    at[row.step] for row in accuracy[ours] if row.step in at and value(row) >= goal
                ]
                samples.append(value(passes[zo][-1]) / reached[0] if reached else math.nan)
                cases += [ends[zo].case, ends[ours].case]
            if samples:
                findings.append(
                    finding(
                        CLAIM,
                        f"{method} against full-zo, {group}",
                        samples,
                        full and group.data in PAPER_DATA,
                        tuple(cases),
                        ratio=True,
                    )
                )
    return findings
