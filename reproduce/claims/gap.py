"""Accuracy: how much of the gap between full ZO and full BP ElasticZO closes."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, final, finding

CLAIM = Claim(
    id="gap",
    text="ElasticZO shrinks the accuracy gap between full ZO and full BP; share of it closed",
    printed="qualitative",
    low=0.0,
    high=100.0,
    unit="%",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """100 (elastic - full-zo) / (full-bp - full-zo), seed by seed."""
    ends = final(rows, "test_accuracy")
    findings = []
    for model, data in sorted({key[:2] for key in ends}):
        for method in ("elastic-1", "elastic-2"):
            samples, cases = [], []
            for seed in sorted({key[3] for key in ends}):
                trio = [ends.get((model, data, m, seed)) for m in ("full-zo", method, "full-bp")]
                zo, ours, bp = (None if row is None else row.value for row in trio)
                if zo is not None and ours is not None and bp is not None and bp > zo:
                    samples.append(100 * (ours - zo) / (bp - zo))
                    cases += [row.case for row in trio if row is not None]
            if samples:
                comparison = f"{method}, {model} on {data}"
                findings.append(finding(CLAIM, comparison, samples, full, tuple(cases)))
    return findings or [finding(CLAIM, "elastic-k", [], full, ())]
