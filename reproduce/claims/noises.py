"""Accuracy: noise that is cheaper to draw, against Gaussian noise."""

from ezo.rows import Row
from reproduce import rules
from reproduce.judge import Claim, Finding
from reproduce.pairs import of_pairs
from reproduce.select import Group, Key, experiment, final, groups, seeds_of

CLAIM = Claim(
    id="noises",
    text="Noise that is cheaper to draw trains as well as Gaussian noise",
    printed="",
    low=-rules.MARGINS["noises"].size,
    high=float("inf"),
    unit="points",
    needs="final test_accuracy of full-zo and elastic-2 with Gaussian and with cheaper noise, at "
    "least 3 seeds",
    statistic="mean over seeds of the difference of two runs with the same seed; one-sided 5 % "
    "test of non-inferiority, that is the 90 % Student interval. The values were tuned for "
    "Gaussian noise",
    source="our own",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Seed by seed, for each kind of noise."""
    gaussian = final(rows, "test_accuracy")
    kinds = sorted({str(row.config["noise"]) for row in rows if experiment(row) == "noises"})
    return [found for noise in kinds for found in _judged(gaussian, _of(rows, noise), noise, full)]


def _of(rows: list[Row], noise: str) -> dict[Key, Row]:
    own = [row for row in rows if row.config.get("noise") == noise]
    return final(own, "test_accuracy", "noises")


def _judged(
    gaussian: dict[Key, Row], cheap: dict[Key, Row], noise: str, full: bool
) -> list[Finding]:
    found = []
    for group in groups(cheap):
        for method in sorted({k.method for k in cheap if k[:3] == group}):
            pairs = _pairs(gaussian, cheap, group, method)
            if pairs:
                compared = f"{noise} minus gaussian, {method}, {group}"
                found.append(of_pairs(CLAIM, compared, pairs, full, not_worse=True))
    return found


def _pairs(
    gaussian: dict[Key, Row], cheap: dict[Key, Row], group: Group, method: str
) -> list[tuple[Row, Row]]:
    seeds = set(seeds_of(cheap, group, method)) & set(seeds_of(gaussian, group, method))
    return [
        (cheap[Key(*group, method, s)], gaussian[Key(*group, method, s)]) for s in sorted(seeds)
    ]
