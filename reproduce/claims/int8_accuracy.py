"""Accuracy: integers against float32, method by method."""

from dataclasses import replace

from ezo.rows import Row
from reproduce.judge import PAPER_DATA, Claim, Finding, finding, seed_margin
from reproduce.select import Group, Key, final, groups, seeds_of, value

CLAIM = Claim(
    id="int8-accuracy",
    text="INT8 does not compromise accuracy: INT8 minus FP32, same method",
    printed="qualitative",
    low=0.0,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of every method in fp32 and in int8 or int8*, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed; one-sided 5 % "
    "test of non-inferiority, that is the 90 % Student interval",
    tolerance="minus 1.96 sqrt(2) s, where s is the standard deviation of the fp32 runs over "
    "seeds: the loss that another seed alone brings once in twenty pairs. Reproduced when all of "
    "the interval lies above it, contradicted when all of it lies below",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed, for every method that has both."""
    ends = final(rows, "test_accuracy")
    findings = []
    for group in groups(ends):
        float32 = Group(group.model, group.data, "fp32")
        if not group.precision.startswith("int8"):
            continue
        for method in sorted({k.method for k in ends if k[:3] == group}):
            both = set(seeds_of(ends, group, method)) & set(seeds_of(ends, float32, method))
            pairs = [
                (ends[Key(*group, method, s)], ends[Key(*float32, method, s)]) for s in sorted(both)
            ]
            if not pairs:
                continue
            margin = seed_margin([value(b) for _, b in pairs])
            findings.append(
                finding(
                    replace(CLAIM, low=-margin),
                    f"{method}, {group} minus fp32",
                    [value(a) - value(b) for a, b in pairs],
                    full and group.data in PAPER_DATA,
                    tuple(row.case for pair in pairs for row in pair),
                    confidence=0.9,
                    note=f"90 % interval; margin -{margin:.2f} points",
                )
            )
    return findings
