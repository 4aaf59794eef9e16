"""The ZO weights of an integer step: how they are perturbed, and what they learn."""

from typing import Any, NamedTuple

from ezo.int8 import perturb
from ezo.step import Difference, Losses


class Update(NamedTuple):
    """A query's update of the ZO weights: theta <- clip(theta - g z rate), as `perturb.update_`.

    The noise z stands at (seed, step, query) in the stream; g is -1, 0 or 1, and rate, the query's
    share, in units of 2^-16.
    """

    seed: int
    step: int
    query: int
    g: int
    rate: int


class WeightPerturbation:
    """The perturbation of the ZO weights, z, of a `ezo.step.Perturbation`'s face."""

    def __init__(self, of: Any, runs: Any, group: dict[str, Any]) -> None:
        self._of, self._runs, self._group = of, runs, group  # runs as `ezo.elastic.runs` gives them
        self._place = of._seed, of._steps

    def move(self, query: int, start: int, end: int) -> None:
        for first, run in self._runs:
            place = (*self._place, query)
            perturb.shift_(run, self._of._noise, place, end - start, first)

    def learn(self, query: int, losses: Losses, difference: Difference) -> Update:
        change = difference({point: loss.total() for point, loss in losses.items()})
        examples = next(iter(losses.values())).examples
        rate = self._of._rate(self._group["rate"], abs(change), examples)
        g = (change > 0) - (change < 0)
        return Update(*self._place, query, g, rate)

    def apply(self, update: Update, start: int) -> None:
        move = update.g, update.rate, -start
        for first, run in self._runs:
            fractions = self._of._fractions(run)
            perturb.update_(run, self._of._noise, update[:3], move, fractions, first)
