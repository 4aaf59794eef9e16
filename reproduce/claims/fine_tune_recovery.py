"""Fine-tuning: how much of what full BP recovers ElasticZO recovers."""

import math

from ezo.rows import Row
from reproduce.judge import PAPER_DATA, Claim, Finding, finding
from reproduce.select import Key, final, groups, history, seeds_of, value

CLAIM = Claim(
    id="fine-tune-recovery",
    text="Fine-tuning by ElasticZO recovers at least 80 % of the accuracy that full BP recovers",
    printed="",
    low=80.0,
    high=float("inf"),
    unit="%",
    needs="test_accuracy at step 0 and at the end of fine-tuning by elastic-k and full-bp from "
    "the same weights, at least 3 seeds",
    statistic="100 (elastic - before) / (full-bp - before) for each seed; mean, 95 % Student "
    "interval",
    tolerance="our target of 80 %: reproduced when all of the interval lies above, contradicted "
    "when all of it lies below",
    source="our own target",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    ends = final(rows, "test_accuracy", "fine-tuning")
    runs = history(rows, "test_accuracy", "fine-tuning")
    findings = []
    for group in groups(ends):
        for method in ("elastic-1", "elastic-2"):
            samples, cases = [], []
            for seed in seeds_of(ends, group, method, "full-bp"):
                ours, bp = Key(*group, method, seed), Key(*group, "full-bp", seed)
                before = value(runs[bp][0])
                gained = value(ends[bp]) - before
                recovered = value(ends[ours]) - before
                samples.append(100 * recovered / gained if gained > 0 else math.nan)
                cases += [ends[ours].case, ends[bp].case]
            if samples:
                findings.append(
                    finding(
                        CLAIM,
                        f"{method} over full-bp, {group}",
                        samples,
                        full and group.data.startswith(PAPER_DATA),
                        tuple(cases),
                    )
                )
    return findings
