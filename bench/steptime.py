"""Time of a training step over two inference forwards, interleaved within one run.

Ours and the peers' (`bench.peers`), all methods of a model in one process. Rounds go A B .. B A, so
that a drift of the machine's speed meets all alike; the ratio of each round is one sample, with a
bootstrap interval over rounds.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from bench import peers
from bench.grid import START_SECONDS
from bench.time import in_turn
from bench.workload import Workload
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")  # and every peer
ROUND_SECONDS = 0.3  # of each method in a round
ROUNDS = 15
SMOKE = {"ROUNDS": 2, "ROUND_SECONDS": 0.002}


@dataclass(frozen=True)
class Comparison:
    """The methods of one model, timed in turn."""

    model: str
    methods: tuple[str, ...]
    batch_size: int
    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        return self.workload("+".join(self.methods)).name

    def workload(self, method: str) -> Workload:
        """One of the methods."""
        return Workload(
            self.model,
            method,
            self.batch_size,
            precision=self.precision,
            threads=self.threads,
            device=self.device,
        )


def cases(
    models: Iterable[str], methods: Iterable[str] | None, batch_size: int
) -> list[Comparison]:
    """One comparison for each model."""
    methods = tuple(methods or (*METHODS, *peers.names()))
    return [Comparison(model, methods, batch_size) for model in models]


def measure(case: Comparison) -> list[Row]:
    """``step_over_two_forwards`` for every method: median over rounds, with its interval."""
    steps, found = {}, []
    for method in ("inference", *case.methods):
        workload = case.workload(method)
        try:
            _, step = workload.prepare()
            losses = [float(step()) for _ in range(3)]
        except ModuleNotFoundError as error:
            note = f"not installed: {error.name}"
            found.append(workload.row("step_over_two_forwards", None, "1", note))
            continue
        if not all(math.isfinite(loss) and 0 < loss < 100 for loss in losses):
            raise AssertionError(
                f"{workload.name}: expected finite losses before timing, got {losses}"
            )
        steps[method] = step
    wait = case.workload("inference").synchronise
    samples = in_turn(steps, wait, ROUNDS, ROUND_SECONDS / 2)
    forwards = torch.tensor(samples["inference"])
    for method in steps:
        if method != "inference":
            ratios = torch.tensor(samples[method]) / (2 * forwards)
            low, high = interval(ratios)
            note = f"95 % interval {low:.3f} to {high:.3f}"
            row = case.workload(method).row
            found.append(row("step_over_two_forwards", ratios.median().item(), "1", note))
    return found


def seconds(case: Comparison) -> float:
    """About how long a comparison takes."""
    return START_SECONDS + ROUNDS * ROUND_SECONDS * (1 + len(case.methods))


def interval(samples: torch.Tensor, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, len(samples), (resamples, len(samples)), generator=generator)
    medians = samples[chosen].median(dim=1).values
    low, high = medians.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high
