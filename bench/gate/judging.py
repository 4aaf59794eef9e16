"""What the gate makes of two values, and of two sides' times."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from bench.probe import DIGEST_STEPS
from bench.workload import Workload

OK, REGRESSED, NOT_MEASURED = 0, 1, 2  # exit status
CONFIDENCE = 0.99
SUSPICIOUS = 0.7  # a ratio below is a step that perhaps no longer does its work
RESAMPLES = 4000


@dataclass(frozen=True)
class Sample:
    """A round: the seconds of a step at each visit."""

    base: tuple[float, ...]
    head: tuple[float, ...]

    @property
    def log_ratio(self) -> float:
        """Of head over base."""
        return fmean(map(math.log, self.head)) - fmean(map(math.log, self.base))


@dataclass(frozen=True)
class Interval:
    """A ratio and its bootstrap interval."""

    ratio: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.ratio:.3f} ({self.low:.3f} to {self.high:.3f})"


@dataclass(frozen=True)
class Finding:
    """A cell's comparison in one respect.

    Attributes:
        base, head: the two values; None where there is none.
        verdict: ``same``, ``fewer bytes``, ``regressed``, ``changed``, ``missing``, ``new``,
            ``suspicious`` or ``not measured``.
        status: what it makes of the exit status.
        interval, samples: for a time: of head over base; by pair and round.
    """

    cell: Workload
    metric: str
    base: float | str | None
    head: float | str | None
    verdict: str
    status: int = OK
    note: str = ""
    interval: Interval | None = None
    samples: Sequence[Sequence[Sample]] = ()


def compare_bytes(cell: Workload, base: int, head: int, tolerance: int) -> Finding:
    """Peak tensor bytes: no more than the base's and the tolerance."""
    verdict, status, note = "same", OK, f"{head - base:+,} B" if head != base else ""
    if head - base > tolerance:
        verdict, status, note = "regressed", REGRESSED, f"{note}; {tolerance:,} B allowed"
    elif head != base:
        verdict = "fewer bytes" if head < base else "within tolerance"
    return Finding(cell, "peak_tensor_bytes", base, head, verdict, status, note)


def compare_digests(cell: Workload, base: str, head: str, allowed: bool) -> Finding:
    """The same seed must give the same bits."""
    if base == head:
        return Finding(cell, "digest", base, head, "same")
    note = f"other losses or weights after {DIGEST_STEPS} steps"
    return Finding(cell, "digest", base, head, "changed", OK if allowed else REGRESSED, note)


def ratio(samples: Sequence[Sequence[Sample]]) -> Interval:
    """Head over base, with its interval, from samples by pair and round."""
    logs = np.array([[sample.log_ratio for sample in rounds] for rounds in samples])
    pairs, rounds = logs.shape
    generator = np.random.default_rng(0)
    p = generator.integers(0, pairs, (RESAMPLES, pairs, 1))
    r = generator.integers(0, rounds, (RESAMPLES, pairs, rounds))
    means = np.median(logs[p, r], axis=2).mean(axis=1)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(*(math.exp(x) for x in (np.median(logs, axis=1).mean(), low, high)))


def undecided_yet(samples: Sequence[Sequence[Sample]], tolerance: float) -> bool:
    """Whether the interval of the ratio holds the tolerance."""
    found = ratio(samples)
    return found.low <= 1 + tolerance <= found.high


def judge_time(cell: Workload, samples: Sequence[Sequence[Sample]], tolerance: float) -> Finding:
    """What the interval of the ratio says of the tolerance."""
    found = ratio(samples)
    base, head = (
        math.exp(np.mean([np.log(getattr(s, label)).mean() for pair in samples for s in pair]))
        for label in ("base", "head")
    )
    limit = 1 + tolerance

    def finding(verdict: str, status: int = OK, note: str = "") -> Finding:
        return Finding(cell, "step_seconds", base, head, verdict, status, note, found, samples)

    if found.low > limit:
        return finding("regressed", REGRESSED)
    if found.high < SUSPICIOUS:
        return finding("suspicious", OK, "is the work still done? see the digest, and the code")
    if found.low <= limit < found.high:
        if found.high / found.low > limit**2:
            note = f"too noisy to tell {tolerance:.0%}; try --clock cpu, or more --pairs"
            return finding("not measured", NOT_MEASURED, note)
        return finding("same", OK, "close to the tolerance")
    return finding("same")


def confirm(first: Finding, again: Finding) -> Finding:
    """A slowdown counts when the rerun agrees."""
    note = f"which the rerun does not confirm; {again.note}"
    if again.status == REGRESSED:
        note = "the rerun agrees"
    return dataclasses.replace(again, note=f"first {first.interval}, {note}".rstrip("; "))
