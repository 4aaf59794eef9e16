"""What noise costs: a step with each kind of it, over the passes of inference that it holds.

The method's step is prepared once for each kind of noise and timed in turn with a pass of inference
in rounds A B .. B A (`bench.timing`). A kind's ratio is the step's time over two passes, in each
round; its median has a bootstrap interval. What remains above 1 is the noise, the update, and what
a step does beside.
"""

import dataclasses

import torch

from bench.timing import in_turn, interval
from bench.workload import Workload
from ezo.noise import NOISES
from ezo.rows import Row

MODELS = ("lenet5",)
METHODS = ("full-zo", "elastic-2")
ROUNDS, VISIT_SECONDS = 25, 0.05
COST = (2 * (len(NOISES) + 1) * ROUNDS * VISIT_SECONDS, 6 * (len(NOISES) + 1))
SMOKE = {"rounds": 2, "visit_seconds": 0.001}
METRIC = "step_over_two_forwards"


@dataclasses.dataclass(frozen=True)
class Noises(Workload):
    """A method's step on one batch, by each kind of noise."""

    @property
    def name(self) -> str:
        return f"{super().name}-noises"


def cases(model: str, method: str, batch_size: int) -> list[Noises]:
    """A method on a model."""
    return [Noises(model, method, batch_size)]


def measure(case: Noises, rounds: int = ROUNDS, visit_seconds: float = VISIT_SECONDS) -> list[Row]:
    """For each kind of noise, the step's time over two passes of inference."""
    steps = {"inference": dataclasses.replace(case, method="inference").prepare()[1]}
    steps |= {noise: case.prepare(noise=noise)[1] for noise in NOISES}
    samples = in_turn(steps, case.device, rounds, visit_seconds)
    times = {name: torch.tensor(seconds) for name, seconds in samples.items()}
    found = []
    for noise in NOISES:
        ratios = times[noise] / (2 * times["inference"])
        low, high = interval(ratios)
        note = f"95 % interval {low:.3f} to {high:.3f}"
        row = case.row(METRIC, ratios.median().item(), "1", note, noise=noise, low=low, high=high)
        found.append(row)
    return found


def table(rows: list[Row]) -> str:
    """The rows in Markdown, a line for each method and kind of noise."""
    lines = ["| model | method | noise | step / two forwards | 95 % |", "|---|---|---|--:|---|"]
    for row in rows:
        if row.metric == METRIC and row.value is not None:
            config = row.config
            spread = f"{config['low']:.3f} to {config['high']:.3f}"
            lines.append(
                f"| {row.model} | {row.method} | {config['noise']} | {row.value:.3f} | {spread} |"
            )
    return "\n".join(lines) + "\n"
