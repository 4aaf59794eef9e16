"""Accuracy: integers against float32, method by method."""

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding
from reproduce.pairs import of_pairs
from reproduce.select import Group, Key, at_length, final, groups, seeds_of

CLAIM = Claim(
    id="int8-accuracy",
    text="INT8 does not compromise accuracy: INT8 minus FP32, same method",
    printed="qualitative",
    low=-rules.MARGINS["int8-accuracy"].size,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of every method in fp32 and in int8 or int8*, at least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed; one-sided 5 % "
    "test of non-inferiority, that is the 90 % Student interval",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed, for every method that has both."""
    floats = final(rows, "test_accuracy")
    findings = []
    for kind in ("training", "sign"):
        ends = final(rows, "test_accuracy", kind)
        for group in groups(ends):
            float32 = Group(group.model, group.data, "fp32")
            if not group.precision.startswith("int8"):
                continue
            for method in sorted({k.method for k in ends if k[:3] == group}):
                both = set(seeds_of(ends, group, method)) & set(seeds_of(floats, float32, method))
                pairs = [
                    (ends[Key(*group, method, s)], floats[Key(*float32, method, s)])
                    for s in sorted(both)
                ]
                if pairs:
                    form = at_length([ours for ours, _ in pairs])
                    compared = f"{method}, {group} minus fp32{form}"
                    findings.append(of_pairs(CLAIM, compared, pairs, full, not_worse=True))
    return findings
