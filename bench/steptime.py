"""Time of a training step over two inference forwards, interleaved within one run.

Rounds go A B .. B A through all methods of a model, so that a drift of the machine's speed meets
all alike; the ratio of each round is one sample, with a bootstrap interval over rounds.
"""

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch

from bench.workload import Workload
from ezo import rows
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp", "torchzero-mezo")
ROUND_SECONDS = 0.3  # of each method in a round
ROUNDS = 15


@dataclass(frozen=True)
class Comparison:
    """The methods of one model, timed in turn."""

    model: str
    methods: tuple[str, ...]
    batch_size: int

    @property
    def name(self) -> str:
        return f"{self.model}-batch{self.batch_size}"


def cases(
    models: Iterable[str], methods: Iterable[str] | None, batch_size: int
) -> list[Comparison]:
    """One comparison for each model."""
    return [Comparison(model, tuple(methods or METHODS), batch_size) for model in models]


def measure(case: Comparison) -> list[Row]:
    """``step_over_two_forwards`` for every method, on one thread: median, with its interval."""
    torch.set_num_threads(1)
    steps, found = {}, []
    for method in ("inference", *case.methods):
        workload = Workload(case.model, method, case.batch_size)
        try:
            _, step = workload.prepare()
            losses = [float(step()) for _ in range(3)]
        except ModuleNotFoundError as error:
            found.append(_row(case, method, None, f"not installed: {error.name}"))
            continue
        if not all(math.isfinite(loss) and 0 < loss < 100 for loss in losses):
            raise AssertionError(
                f"{workload.name}: expected finite losses before timing, got {losses}"
            )
        steps[method] = step
    repeats = {}
    for method, step in steps.items():
        once = _seconds(step, 3)
        repeats[method] = max(2, round(ROUND_SECONDS / 2 / once))
    samples: dict[str, list[float]] = {method: [] for method in steps}
    for _ in range(ROUNDS):
        spent = dict.fromkeys(steps, 0.0)
        for method in (*steps, *reversed(steps)):
            spent[method] += _seconds(steps[method], repeats[method]) / 2
        for method, seconds in spent.items():
            samples[method].append(seconds)
    forwards = torch.tensor(samples["inference"])
    for method in steps:
        if method != "inference":
            ratios = torch.tensor(samples[method]) / (2 * forwards)
            low, high = _interval(ratios)
            found.append(
                _row(case, method, ratios.median().item(), f"95 % interval {low:.3f} to {high:.3f}")
            )
    return found


def _seconds(step: Callable[[], object], repeats: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    return (time.perf_counter() - started) / repeats


def _interval(samples: torch.Tensor, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, len(samples), (resamples, len(samples)), generator=generator)
    medians = samples[chosen].median(dim=1).values
    low, high = medians.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def _row(case: Comparison, method: str, value: float | None, note: str) -> Row:
    return Row(
        case=f"{case.model}-{method}-batch{case.batch_size}",
        metric="step_over_two_forwards",
        value=value,
        unit="1",
        note=note,
        model=case.model,
        data="random",
        method=method,
        config={"batch_size": case.batch_size},
        threads=torch.get_num_threads(),
        **rows.provenance(),
    )
