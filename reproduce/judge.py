"""From samples to verdicts: intervals over seeds, and the words for what they show."""

import importlib
import math
import pkgutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType

from scipy import stats

import reproduce.claims
from ezo.rows import Row
from reproduce import rules

VERDICTS = {
    "reproduced": "the whole interval meets the claim, less its margin",
    "exceeded": "the whole interval is better than the printed range",
    "undecided": "the interval holds values that meet the claim and values that do not, or there "
    "are fewer than three samples",
    "contradicted": "no part of the interval meets the claim",
    "not run": "no rows to judge from",
    "not reproducible as specified": "the claimed quantity does not exist for these rows: a goal "
    "that was never reached, a gap that is not there, a baseline that has hardly learnt",
    "indication only": "no verdict: of a reduced preset, on data that stand in for the paper's (of "
    "ours too), or between methods whose values were searched for with unequal numbers of trials",
}
OURS = "our own: node perturbation is no part of the paper"  # source of claims on it


@dataclass(frozen=True)
class Claim:
    """What is claimed, and how it is judged.

    Attributes:
        id: short name.
        text: the claim in a sentence.
        printed: the printed value, as text; empty for a claim of our own.
        low, high: the printed value as bounds, in ``unit``, the one on the worse side less the
            margin of `reproduce.rules`; the claim holds there and beyond.
        unit: of the value.
        needs: the rows that the verdict needs.
        statistic: what is computed from them.
        better: ``higher`` or ``lower``.
        strict: the claim does not hold at the bound itself, where there is no effect.
        source: where it stands.
        samples: what differs from one to the next, ``seeds`` or the ``rounds`` of one run.
    """

    id: str
    text: str
    printed: str
    low: float
    high: float
    unit: str
    needs: str
    statistic: str
    better: str = "higher"
    strict: bool = False
    source: str = "paper, abstract"
    samples: str = "seeds"

    @property
    def margin(self) -> str:
        """The margin of this claim, and why so much, as text."""
        size, reason = rules.MARGINS[self.id]
        return f"{abs(size):g} {self.unit}: {reason}" if size else reason


@dataclass(frozen=True)
class Finding:
    """What the rows show of a claim, for one comparison.

    Attributes:
        claim: the claim's id.
        comparison: what was compared, on what.
        value, low, high: estimate and interval over seeds, in the claim's unit; None where there
            is nothing to estimate from; ``high`` is infinite where the samples have no upper end.
        seeds: number of samples: seeds, or rounds of a timing.
        verdict: one of `VERDICTS`.
        cases: the rows' cases, each once, for going back.
        note: what else a reader must know.
        claimed: what the value was held against, as text.
        bound: ``at least`` where the value is a lower bound; else empty.
    """

    claim: str
    comparison: str
    value: float | None
    low: float | None
    high: float | None
    seeds: int
    verdict: str
    cases: tuple[str, ...] = ()
    note: str = ""
    claimed: str = ""
    bound: str = ""


def claims() -> Iterator[ModuleType]:
    """Every claim's file, in the order of their names."""
    for info in sorted(pkgutil.iter_modules(reproduce.claims.__path__), key=lambda info: info.name):
        yield importlib.import_module(f"reproduce.claims.{info.name}")


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """What the rows show of every claim; ``not run`` for a claim without rows."""
    findings: list[Finding] = []
    for module in claims():
        found = module.judge(rows, full)
        findings += found or [Finding(module.CLAIM.id, "-", None, None, None, 0, "not run")]
    return findings


def interval(
    samples: Sequence[float], confidence: float = rules.CONFIDENCE
) -> tuple[float, float, float]:
    """Mean and Student's interval; the interval is infinite for a single sample."""
    n = len(samples)
    mean = math.fsum(samples) / n
    if n == 1:
        return mean, -math.inf, math.inf
    quantile = float(stats.t.ppf((1 + confidence) / 2, n - 1))
    half = quantile * math.sqrt(math.fsum((x - mean) ** 2 for x in samples) / (n - 1) / n)
    return mean, mean - half, mean + half


def finding(
    claim: Claim,
    comparison: str,
    samples: Sequence[float],
    full: bool,
    cases: tuple[str, ...],
    *,
    exact: bool = False,
    ratio: bool = False,
    confidence: float = rules.CONFIDENCE,
    note: str = "",
    upper: Sequence[float] = (),
    unfair: str = "",
    void: str = "",
) -> Finding:
    """The verdict on samples of the claimed quantity, one a seed.

    Args:
        full: False for a reduced preset and for stand-in data: an indication, never a verdict.
        exact: the quantity is the same on every run, so that one sample is enough, also of a
            reduced preset.
        ratio: take mean and interval of the logarithms.
        confidence: of the interval.
        upper: for samples that are known only to lie between two ends: ``samples`` are the lower
            ones and these the upper ones. One that is infinite makes the finding a bound.
        unfair: why there is an indication and no verdict (`reproduce.budgets.unequal`), or nothing.
        void: why the claimed quantity does not exist, or nothing.
    """
    note = "; ".join(filter(None, (note, void, unfair)))
    bound = "at least" if math.inf in upper else ""

    def found(mean: float | None, low: float | None, high: float | None, verdict: str) -> Finding:
        return Finding(
            claim.id,
            comparison,
            mean,
            low,
            high,
            len(samples),
            verdict,
            tuple(dict.fromkeys(cases)),
            note,
            claimed(claim),
            bound,
        )

    if not samples:
        return found(None, None, None, "not run")
    if not all(math.isfinite(x) and (x > 0 or not ratio) for x in samples):
        return found(None, None, None, "not reproducible as specified")
    if exact:
        mean, low, high = (samples[0],) * 3
    else:
        mean, low, high = _spread(samples, upper or samples, ratio, confidence)
    if void:
        verdict = "not reproducible as specified"
    elif (not full and not exact) or unfair:
        verdict = "indication only"
    elif len(samples) < rules.LEAST_SEEDS and not exact:
        verdict = "undecided"
    else:
        verdict = _verdict(claim, low, high)
    return found(mean, low, high, verdict)


def claimed(claim: Claim) -> str:
    """What a value is held against, as text.

    >>> claimed(Claim("c", "text", "", 5.2, 9.5, "points", "n", "s"))
    '5.2 to 9.5 points'
    """
    low, high = f"{claim.low:.3g}", f"{claim.high:.3g}"
    if math.isinf(claim.low):
        return f"at most {high} {claim.unit}"
    if math.isinf(claim.high):
        return f"{'above' if claim.strict else 'at least'} {low} {claim.unit}"
    return f"{low} to {high} {claim.unit}"


def _spread(
    lower: Sequence[float], upper: Sequence[float], ratio: bool, confidence: float
) -> tuple[float, float, float]:
    """Mean of the lower ends; the interval from below their mean to above that of the upper ends.

    It covers the mean of whatever lies between the ends at least as often as ``confidence`` says.
    """
    into, back = (math.log, _exp) if ratio else (float, float)
    mean, low, _ = interval([into(x) for x in lower], confidence)
    high = math.inf
    if math.inf not in upper:
        _, _, high = interval([into(x) for x in upper], confidence)
    return back(mean), back(low), back(high)


def _exp(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def _verdict(claim: Claim, low: float, high: float) -> str:
    worst, best = claim.low, claim.high
    if claim.better == "lower":  # the mirror image
        low, high = -high, -low
        worst, best = -best, -worst
    if high < worst or (claim.strict and high == worst):
        return "contradicted"
    if low > best:
        return "exceeded"
    return "reproduced" if low > worst or (low == worst and not claim.strict) else "undecided"
