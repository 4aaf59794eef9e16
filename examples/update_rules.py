"""Momentum and Adam-like scaling of zeroth order, without memory for them: do they learn more?

``python examples/update_rules.py --data mnist --held-out 10000``. An update of full ZO is a scalar
times noise that a seed makes, so that earlier updates can be made again in place of being stored:

    plain      theta <- theta - lr g_t z_t
    momentum   theta <- theta - lr sum_i beta^i g_(t-i) z_(t-i),  i = 0 .. N - 1 of the last N steps
    rms        theta <- theta - lr g_t z_t / rms(g),              of Adam's second moment
    adam       both: the sum over i, each g divided by its own rms
    scaling    rms as a schedule of the plain rule's rate, which stays as it is for 100 steps

Adam divides each weight's step by the root of a running mean of its squared gradients, which are
(g z)^2 here. With noise of -1 and 1 z^2 is 1, so that mean is one number for all weights: a running
mean of g^2. With other noise it is that number times what z^2 averages to, 1.

All are made of an ElasticZO's public parts, ``estimates`` and ``replay``, and need no memory but N
scalars. Momentum costs N - 1 sweeps over the weights a step, and no pass. Every rule has the same
learning rates to choose from, as multiples of the plain one's, and is judged on training examples
that were held out; rates of momentum are divided by 1 / (1 - beta), by which its updates add up.
"""

import functools
import itertools
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import trials
from torch import Tensor, nn

import ezo
from ezo.data import Dataset
from ezo.examples import seed_of
from ezo.optim import Update
from ezo.precisions.fp32 import schedule
from ezo.run import Run, build, load

RULES = ("plain", "momentum", "rms", "adam", "scaling")
FACTORS = (0.3, 1.0, 3.0, 10.0)  # of the plain learning rate
REFERENCE = 100  # steps that say what g is at first


@dataclass(frozen=True)
class Setting:
    """How all rules train."""

    data: str
    epochs: int = 5
    held_out: int = 10_000
    seed: int = 1000
    lr: float = 2.25e-4
    eps: float = 0.01
    clip: float = 20.0
    beta: float = 0.9
    beta2: float = 0.999
    history: int = 16  # updates that momentum makes again, this step's with them
    batch_size: int = 32
    noise: str = "gaussian"
    schedule: str = "cosine"


class Rule:
    """Full ZO of a model by one of `RULES`."""

    def __init__(self, model: nn.Module, name: str, setting: Setting) -> None:
        self.setting, self.name = setting, name
        how = {"eps": setting.eps, "noise": setting.noise, "seed": setting.seed}
        # Its own update moves nothing; the rule's is made by ``replay``.
        self.optimizer = ezo.ElasticZO(model, bp=0, lr=0.0, **how)
        kept = setting.history if name in ("momentum", "adam") else 1
        self.scalars: deque[tuple[int, float]] = deque(maxlen=kept)
        self.square, self.steps = 0.0, 0
        self.factor, self.first = 1.0, 0.0  # of scaling: on the rate, and the first rms

    def step(self, closure: object, lr: float) -> float:
        """One step; returns the loss."""
        loss = float(self.optimizer.step(closure))  # type: ignore[arg-type]
        (estimate,) = self.optimizer.estimates
        if self.optimizer.applied:  # else the loss was not finite
            g = (estimate.loss_plus - estimate.loss_minus) / (2 * self.setting.eps)
            g = max(-self.setting.clip, min(self.setting.clip, g))
            self.scalars.appendleft((self.steps, self._scaled(g)))
            if self.name in ("momentum", "adam"):
                lr *= 1 - self.setting.beta
            self.optimizer.replay(
                [self._update(lr, i) for i in range(len(self.scalars) - 1, -1, -1)]
            )
        self.steps += 1
        return loss

    def _scaled(self, g: float) -> float:
        if self.name in ("plain", "momentum"):
            return g
        beta2, n = self.setting.beta2, self.steps + 1
        self.square = beta2 * self.square + (1 - beta2) * g * g
        rms = math.sqrt(self.square / (1 - beta2**n)) + 1e-8
        if self.name != "scaling":
            return g / rms
        scaled = g * self.factor  # by what g was until now
        if n == REFERENCE:
            self.first = rms
        self.factor = self.first / rms if self.first else 1.0
        return scaled

    def _update(self, lr: float, i: int) -> tuple[Update]:
        """This step's share of the update of ``i`` steps ago."""
        step, g = self.scalars[i]
        rate = lr * self.setting.beta**i * g
        return (Update(self.setting.seed, step, 0, ((self.setting.eps, rate, 0.0),)),)


def trained(name: str, factor: float, setting: Setting) -> float:
    """Accuracy on the held-out examples, in %, after all epochs of a schedule."""
    run = Run("lenet5", setting.data, "full-zo", seed=setting.seed, held_out=setting.held_out)
    torch.set_num_threads(1)
    data = load(run)
    model = build(run, data.classes, data.train_x.shape[1])
    rule = Rule(model, name, setting)
    scale = setting.lr * (typical(setting) if name in ("rms", "adam") else 1.0)
    per_epoch = len(data.train_x) // setting.batch_size
    for t, (x, y) in enumerate(batches(data, setting, setting.epochs * per_epoch)):
        course = schedule(setting.schedule, t / (setting.epochs * per_epoch))
        loss = rule.step(
            lambda x=x, y=y: nn.functional.cross_entropy(model(x), y), factor * scale * course
        )
        if not math.isfinite(loss):
            return 100.0 / data.classes
    return trials.accuracy(model, data)


def batches(data: Dataset, setting: Setting, n: int) -> Iterator[tuple[Tensor, Tensor]]:
    """``n`` batches, the same for each rule."""
    generator = torch.Generator().manual_seed(seed_of(setting.seed, 1))
    orders = (torch.randperm(len(data.train_x), generator=generator) for _ in itertools.count())
    whole = (at for order in orders for at in order.split(setting.batch_size))
    full = (at for at in whole if len(at) == setting.batch_size)
    for at in itertools.islice(full, n):
        yield data.train_x[at], data.train_y[at]


@functools.cache
def typical(setting: Setting) -> float:
    """Root of the mean g^2 at first: rates of a normalised g, times this, are rates of g."""
    run = Run("lenet5", setting.data, "full-zo", seed=setting.seed, held_out=setting.held_out)
    data = load(run)
    model = build(run, data.classes, data.train_x.shape[1])
    rule, squares = Rule(model, "plain", setting), []
    for x, y in batches(data, setting, 100):
        rule.step(lambda x=x, y=y: nn.functional.cross_entropy(model(x), y), 0.0)
        squares.append(rule.scalars[0][1] ** 2)
    return math.sqrt(sum(squares) / len(squares))


def main() -> None:
    """The command line."""
    parser = trials.parser(__doc__, RULES, FACTORS)
    parser.add_argument("--epochs", type=int, default=5, help="of a training")
    parser.add_argument("--noise", default="gaussian", help="a kind that ElasticZO knows")
    parser.add_argument("--schedule", default="cosine", help="of the learning rate (`ezo train`)")
    given = parser.parse_args()
    own = {"noise": given.noise, "schedule": given.schedule}
    trials.table(
        "update-rules",
        given,
        lambda seed: Setting(given.data, given.epochs, given.held_out, seed, **own),
        trained,
    )


if __name__ == "__main__":
    main()
