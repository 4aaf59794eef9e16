"""From rows to verdicts: intervals over seeds, and the words for what they show."""

import importlib
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType

from scipy import stats

import reproduce.claims
from ezo.rows import Row

VERDICTS = (
    "reproduced",
    "exceeded",
    "within noise",
    "contradicted",
    "underpowered",
    "indication only",
    "not run",
)
LEAST_SEEDS = 3  # for a verdict


@dataclass(frozen=True)
class Claim:
    """What is claimed, and where.

    Attributes:
        id: short name.
        text: the claim in a sentence.
        printed: the printed value, as text; empty for a claim of our own.
        low, high: the printed value as bounds, in ``unit``.
        unit: of the value.
        source: where it stands.
    """

    id: str
    text: str
    printed: str
    low: float
    high: float
    unit: str
    source: str = "paper, abstract"


@dataclass(frozen=True)
class Finding:
    """What the rows show of a claim, for one comparison.

    Attributes:
        claim: the claim's id.
        comparison: what was compared, on what.
        value, low, high: estimate and 95 % interval over seeds, in the claim's unit; None where
            there is nothing to estimate from.
        seeds: number of seeds.
        verdict: one of `VERDICTS`.
        cases: the rows' cases, for going back.
    """

    claim: str
    comparison: str
    value: float | None
    low: float | None
    high: float | None
    seeds: int
    verdict: str
    cases: tuple[str, ...] = ()


def claims() -> Iterator[ModuleType]:
    """Every claim's file, in the order of their names."""
    for info in sorted(pkgutil.iter_modules(reproduce.claims.__path__), key=lambda info: info.name):
        yield importlib.import_module(f"reproduce.claims.{info.name}")


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """What the rows show of every claim."""
    return [finding for module in claims() for finding in module.judge(rows, full)]


def interval(samples: list[float]) -> tuple[float, float, float]:
    """Mean and 95 % Student interval; the interval is infinite for a single sample."""
    n = len(samples)
    mean = math.fsum(samples) / n
    if n == 1:
        return mean, -math.inf, math.inf
    half = float(stats.t.ppf(0.975, n - 1)) * math.sqrt(
        math.fsum((x - mean) ** 2 for x in samples) / (n - 1) / n
    )
    return mean, mean - half, mean + half


def finding(
    claim: Claim,
    comparison: str,
    samples: list[float],
    full: bool,
    cases: tuple[str, ...],
    exact: bool = False,
) -> Finding:
    """The verdict on samples of the claimed quantity, one a seed.

    ``contradicted``: the interval lies below what was printed (above, for a claim of an upper
    bound, that is with ``low`` of minus infinity). ``exceeded``: it lies beyond the printed range
    on the good side. ``within noise``: the interval holds zero too. ``reproduced``: otherwise.

    Args:
        exact: the quantity does not vary over seeds, so that one sample is enough.
    """
    if not samples:
        return Finding(claim.id, comparison, None, None, None, 0, "not run", cases)
    mean, low, high = (samples[0],) * 3 if exact else interval(samples)
    upper_bound = math.isinf(claim.low)
    if not full:
        verdict = "indication only"
    elif len(samples) < LEAST_SEEDS and not exact:
        verdict = "underpowered"
    elif upper_bound:
        verdict = "contradicted" if low > claim.high else "reproduced"
    elif high < claim.low:
        verdict = "contradicted"
    elif low > claim.high:
        verdict = "exceeded"
    elif low <= 0 <= high:
        verdict = "within noise"
    else:
        verdict = "reproduced"
    return Finding(claim.id, comparison, mean, low, high, len(samples), verdict, cases)


def final(rows: list[Row], metric: str) -> dict[tuple[str, str, str, int], Row]:
    """Each training run's last row of a metric, by (model, data, method, seed).

    A run that diverged, failed or stopped has none.
    """
    done = {row.case for row in rows if row.metric == "finished"}
    found: dict[tuple[str, str, str, int], Row] = {}
    for row in rows:
        if row.metric == metric and row.case in done and row.seed is not None:
            found[row.model, row.data, row.method, row.seed] = row
    return found


def accuracy_differences(
    rows: list[Row], pairs: list[tuple[str, str]]
) -> Iterator[tuple[str, list[float], tuple[str, ...]]]:
    """Final accuracy of one method minus another's, seed by seed, in points.

    Yields:
        (comparison, a difference a seed, cases) for every model, data set and pair with rows.
    """
    ends = final(rows, "test_accuracy")
    for model, data in sorted({key[:2] for key in ends}):
        for ours, theirs in pairs:
            seeds = sorted(
                s
                for m, d, method, s in ends
                if (m, d, method) == (model, data, ours) and (model, data, theirs, s) in ends
            )
            if seeds:
                both = [(ends[model, data, ours, s], ends[model, data, theirs, s]) for s in seeds]
                yield (
                    f"{ours} minus {theirs}, {model} on {data}",
                    [(a.value or 0.0) - (b.value or 0.0) for a, b in both],
                    tuple(row.case for pair in both for row in pair),
                )


def peak_ratios(
    rows: list[Row], pairs: list[tuple[str, str]]
) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Peak tensor bytes of one method over another's, minus one, in %.

    Yields:
        (comparison, %, cases) for every model, batch size and pair with rows.
    """
    peaks = {
        (row.model, row.config["batch_size"], row.method): row
        for row in rows
        if row.metric == "peak_tensor_bytes" and row.value is not None
    }
    for model, batch in sorted({key[:2] for key in peaks}):
        for ours, theirs in pairs:
            a, b = peaks.get((model, batch, ours)), peaks.get((model, batch, theirs))
            if a is not None and b is not None and a.value and b.value:
                yield (
                    f"{ours} over {theirs}, {model}, batch {batch}",
                    100 * (a.value / b.value - 1),
                    (a.case, b.case),
                )
