"""Accuracy: what several perturbations a step add, at as many times the forward passes."""

from ezo.rows import Row
from reproduce.experiments._runs import QUERIES
from reproduce.judge import Claim, Finding
from reproduce.pairs import of_pairs
from reproduce.select import Group, Key, final, groups, seeds_of

CLAIM = Claim(
    id="queries",
    text=f"{QUERIES} perturbations a step instead of one make elastic-2 more accurate, at "
    f"{QUERIES} times the forward passes and the same memory",
    printed="",
    low=0.0,
    high=float("inf"),
    unit="points",
    needs=f"final test_accuracy of elastic-2 with one and with {QUERIES} perturbations a step, at "
    "least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed, 95 % Student "
    "interval",
    strict=True,
    source="our own",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed."""
    one, more = final(rows, "test_accuracy"), final(rows, "test_accuracy", "queries")
    findings = []
    for group in groups(more):
        seeds = set(seeds_of(more, group, "elastic-2")) & set(seeds_of(one, group, "elastic-2"))
        pairs = [_pair(more, one, group, seed) for seed in sorted(seeds)]
        if pairs:
            compared = f"elastic-2 with {QUERIES} queries minus with one, {group}"
            findings.append(of_pairs(CLAIM, compared, pairs, full))
    return findings


def _pair(more: dict[Key, Row], one: dict[Key, Row], group: Group, seed: int) -> tuple[Row, Row]:
    at = Key(*group, "elastic-2", seed)
    return more[at], one[at]
