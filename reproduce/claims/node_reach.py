"""Ours: the accuracy that node perturbation was built to reach."""

from dataclasses import replace

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import OURS, Claim, Finding, finding
from reproduce.select import Key, final, groups, seeds_of, value

TARGETS = {  # final test accuracy, %, set before the runs
    ("lenet5", "mnist", "full-zo-node"): 96.0,
    ("lenet5", "mnist", "elastic-node-2"): 97.8,
    ("lenet5", "fashion-mnist", "full-zo-node"): 83.0,
    ("lenet5", "fashion-mnist", "elastic-node-2"): 87.5,
    ("pointnet-centred", "shapes-upright-64", "full-zo-node"): 60.0,
}
CLAIM = Claim(
    id="node-reach",
    text="How far node perturbation comes: full-zo-node, which runs no backward pass, 96 % on "
    "MNIST, 83 % on Fashion-MNIST and 60 % on upright clouds; elastic-node-2 97.8 and 87.5 %",
    printed="",
    low=min(TARGETS.values()),
    high=float("inf"),
    unit="%",
    needs="final test_accuracy of full-zo-node and elastic-node-2, at least 3 seeds",
    statistic="mean over seeds of the final test accuracy, 95 % Student interval",
    source=OURS,
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """A target for each method on each data set, in each precision."""
    ends = final(rows, "test_accuracy")
    found = []
    for group in groups(ends):
        for (model, data, method), target in TARGETS.items():
            if (model, data) != group[:2]:
                continue
            runs = [ends[Key(*group, method, seed)] for seed in seeds_of(ends, group, method)]
            if runs:
                claim = replace(CLAIM, low=target)
                cases = tuple(row.case for row in runs)
                samples = [value(row) for row in runs]
                judged = full and data in rules.PAPER_DATA
                found.append(finding(claim, f"{method}, {group}", samples, judged, cases))
    return found
