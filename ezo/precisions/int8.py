"""Integers alone, 8 bits for weights, activations and errors; int8* takes its loss in float64."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import catalogue
from ezo.data import Dataset
from ezo.int8 import (
    ElasticZO,
    FloatLoss,
    Int8Tensor,
    Loss,
    SparseNoise,
    from_float,
    quantize,
    quantize_at,
)
from ezo.int8.loss import NAT, tables
from ezo.int8.optim import BP_GRADIENTS, LARGEST_QUERIES
from ezo.int8.trace import parametric
from ezo.methods import Parts
from ezo.methods._hyper import about
from ezo.precisions import EVALUATION_BATCH, Trainer

NAMES = ("int8", "int8*")
ZO = frozenset(
    {
        *("rate", "r_max", "p_zero", "magnitude", "largest_difference", "fraction", "schedule"),
        *("zo_growth", "queries"),
    }
)
BP = frozenset({"mu", "mu_drop", "fraction", "growth"})
BOTH = frozenset({"bp_gradient"})
HALVINGS = 5  # of the rate, over an exponential schedule
FACTOR_BITS = 16


@dataclass(frozen=True)
class Int8Hyper:
    """Hyperparameters of integer training; units are of a weight's last place.

    The paper's form is magnitude sign, fraction 0 and a p_zero above 0, with rates of some
    thousand. The ZO rate follows ``schedule`` from its first value; ``mu``, which stands for a BP
    learning rate and halves it where it falls by 1, falls in steps as NITI's does (arXiv
    2009.13108).
    """

    rate: int = about(
        64_700,
        "ZO rate: 2^-16 last places by which a noise of 1 moves its weight; for magnitude "
        "absolute, per bit of mean loss difference",
    )
    r_max: int = about(15, "largest ZO perturbation, in last places of a weight, 1 to 63")
    p_zero: float = about(0.0, "share of weights that a perturbation leaves alone")
    magnitude: str = about(
        "absolute",
        "ZO step size: sign (the paper's), relative to the loss difference's running mean, or "
        "absolute, in proportion to the loss difference",
    )
    largest_difference: int = about(
        525, "bound on the mean loss difference that magnitude absolute takes, in 2^-10 bit"
    )
    fraction: int = about(
        8, "bits of a trained weight that only updates see: 8, or 0 as in the paper"
    )
    mu: int = about(3, "bits of the largest BP update at first, -20 to 6")
    mu_drop: int = about(4, "how far mu falls over the run, by 1 at equal intervals")
    growth: int = about(
        0,
        "room for the BP part's weights to grow: they begin within 127 / 2^growth, 0 to 6; mu "
        "counts last places, which are then 2^growth times larger",
        later=True,
    )
    zo_growth: int = about(
        0,
        "the same for the ZO part: they begin within (127 - r_max) / 2^zo_growth, and r_max counts "
        "last places, which are then 2^zo_growth times larger; the rate stays",
        later=True,
    )
    bp_gradient: str = about(
        "plus",
        "where the BP gradient is taken: plus or minus for one of a step's passes, mean for both, "
        "unperturbed for one more",
        later=True,
    )
    queries: int = about(1, "ZO perturbations a step", later=True)
    schedule: str = about(
        "cosine", "ZO rate over time: exponential (to 1/32), cosine (to 0) or constant"
    )


HYPER = Int8Hyper
FORMS = ("",)


def default(method: str) -> Int8Hyper:
    """The same for all methods."""
    return Int8Hyper()


def reads(method: str) -> frozenset[str]:
    """Those of the parts that the method has."""
    parts = _parts(method)
    zo = parts.zo and parts.bp != "all"
    bp = parts.bp != 0
    both = BOTH if zo and bp else frozenset()
    return (ZO if zo else frozenset()) | (BP if bp else frozenset()) | both


def check(method: str, hyper: Int8Hyper) -> None:
    """Raises:
    ValueError: the method has no integer form, or a value is out of range.
    """
    _parts(method)
    for field in fields(hyper):
        value = getattr(hyper, field.name)
        if isinstance(field.default, int) and type(value) is not int:
            raise ValueError(f"expected {field.name} to be an integer, got {value!r}")
    if hyper.fraction not in (0, 8):
        raise ValueError(f"expected fraction of 0 or 8, got {hyper.fraction}")
    for name in ("growth", "zo_growth"):
        if not 0 <= getattr(hyper, name) <= 6:
            raise ValueError(f"expected {name} from 0 to 6 bits, got {getattr(hyper, name)}")
    if hyper.bp_gradient not in BP_GRADIENTS:
        raise ValueError(
            f"expected bp_gradient to be one of {', '.join(BP_GRADIENTS)}, got "
            f"{hyper.bp_gradient!r}"
        )
    if not 1 <= hyper.queries <= LARGEST_QUERIES:
        raise ValueError(f"expected queries of 1 to {LARGEST_QUERIES}, got {hyper.queries}")
    SparseNoise(hyper.r_max, hyper.p_zero)
    factor(hyper.schedule, 0, 1)
    if not 0 <= hyper.mu_drop <= hyper.mu + 20:
        raise ValueError(
            f"expected mu_drop from 0 to {hyper.mu + 20}, so that mu, {hyper.mu} at first, ends at "
            f"-20 or more, got {hyper.mu_drop}"
        )


def _parts(method: str) -> Parts:
    file = catalogue.find("method", method)
    if not hasattr(file, "parts"):
        known = [
            name
            for other in catalogue.members("method")
            if hasattr(other, "parts")
            for name in other.NAMES
        ]
        raise ValueError(
            f"expected a method with an integer form, {', '.join(known)}, got {method}; "
            "give one of those, or --precision fp32"
        )
    parts: Parts = file.parts(method)
    return parts


def factor(schedule: str, step: int, steps: int) -> int:
    """Factor on the rate at a step, in units of 2^-16, by integer arithmetic.

    The cosine is Bhaskara's, cos(pi d) = (1 - 4 d^2) / (1 + d^2), within 0.002; 2^-f between two
    halvings is 1 - (4 f - f^2) / 6, within 0.4 %.

    Args:
        schedule: ``cosine``, ``exponential`` or ``constant``.
        step: 0 to ``steps``.
        steps: of the run, 1 or more.

    Raises:
        ValueError: the schedule is unknown.

    >>> [factor("cosine", step, 8) / 2**16 for step in (0, 4, 8)]
    [1.0, 0.5, 0.0]
    """
    one = 1 << FACTOR_BITS
    if schedule == "constant":
        return one
    if schedule == "exponential":
        whole, rest = divmod(HALVINGS * step, steps)
        f = (rest << FACTOR_BITS) // steps
        return (one - (4 * f - (f * f >> FACTOR_BITS)) // 6) >> whole
    if schedule == "cosine":
        near = min(step, steps - step)  # the cosine is odd about the middle
        cosine = ((steps * steps - 4 * near * near) << FACTOR_BITS) // (steps * steps + near * near)
        return (one + (cosine if near == step else -cosine)) >> 1
    raise ValueError(f"unknown schedule '{schedule}'; known: exponential, cosine, constant")


def trainer(
    name: str,
    model: nn.Module,
    data: Dataset,
    method: str,
    hyper: Int8Hyper,
    seed: int,
    device: torch.device,
) -> Trainer:
    """A model that `ezo.int8.from_float` can convert, by a method that has ``parts``.

    Inputs become int8 once, before the training, with one exponent for all: the training set's.
    What augmentation adds, in floating point, is quantised batch by batch with the same exponent,
    before the step; values beyond +-127 2^E are held there.
    """
    loss = Loss if name == "int8" else FloatLoss
    return _Trainer(loss, model, data, method, hyper, seed, device)


def weighted(model: nn.Module) -> list[str]:
    """The layers that become integer ones with weights, frozen ones too, in forward's order."""
    return parametric(model)


def prepare(
    name: str,
    model: nn.Module,
    inputs: list[Tensor],
    bp_layers: int | None,
    form: str,
    loss: Callable[[Any], Tensor] | None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None,
) -> tuple[nn.Module, Callable[[], Any]]:
    """A step of the training loop, with the hyperparameters by default, on int8 inputs."""
    if loss is not None or bp_optimizer is not None or len(inputs) != 1:
        got = [
            "a loss" if loss is not None else "",
            "a bp_optimizer" if bp_optimizer is not None else "",
            f"{len(inputs)} inputs" if len(inputs) != 1 else "",
        ]
        raise ValueError(
            f"expected one input, and the integer loss and update, for {name}, got "
            f"{' and '.join(filter(None, got))}; leave that out, or plan fp32"
        )
    hyper = Int8Hyper()
    network = from_float(model, headroom=hyper.r_max)
    (given,) = inputs
    x = Int8Tensor(torch.empty_like(given, dtype=torch.int8), -7)
    y = torch.zeros(len(given), dtype=torch.int64, device=given.device)
    of = Loss if name == "int8" else FloatLoss
    if of is Loss:
        tables(given.device)  # stand from the first loss on

    def closure() -> Loss:
        return of(network(x), y)

    if bp_layers is None:
        return network, torch.no_grad()(lambda: closure().total())
    optimizer = ElasticZO(
        network,
        bp_layers,
        noise=SparseNoise(hyper.r_max, hyper.p_zero),
        magnitude=hyper.magnitude,
        fraction=hyper.fraction > 0,
    )
    return network, lambda: optimizer.step(closure).total()


class _Trainer(Trainer):
    def __init__(
        self,
        loss: Callable[[Int8Tensor, Tensor], Loss],
        model: nn.Module,
        data: Dataset,
        method: str,
        hyper: Int8Hyper,
        seed: int,
        device: torch.device,
    ) -> None:
        train = quantize(data.train_x)
        self._exponent, self._augment = train.e, data.augment
        self.train_x = (train.m if data.augment is None else data.train_x).to(device)
        self.test_x = quantize_at(data.test_x, train.e).m.to(device)
        self.train_y, self.test_y = data.train_y.to(device), data.test_y.to(device)
        parts = _parts(method)
        network = from_float(model)
        layers = len(network.weighted())
        bp = layers if isinstance(parts.bp, str) else parts.bp
        zo = parts.zo and bp < layers
        if zo:
            network = from_float(model, headroom=hyper.r_max)
        for place, layer in enumerate(network.weighted()):
            if place >= layers - bp:
                layer.make_room(hyper.growth)
            elif zo:
                layer.make_room(hyper.zo_growth)
        self.model = self._network = network.to(device)
        self.optimizer = ElasticZO(
            self._network,
            bp,
            zo=parts.zo,
            noise=SparseNoise(hyper.r_max, hyper.p_zero),
            rate=hyper.rate,
            mu=hyper.mu,
            magnitude=hyper.magnitude,
            largest_difference=hyper.largest_difference,
            fraction=hyper.fraction > 0,
            queries=hyper.queries,
            bp_gradient=hyper.bp_gradient,
            seed=seed,
        )
        self._loss, self._hyper = loss, hyper

    def batch(self, chosen: Tensor, generator: torch.Generator) -> tuple[Int8Tensor, Tensor]:
        x, y = self.train_x[chosen], self.train_y[chosen]
        if self._augment is None:
            return Int8Tensor(x, self._exponent), y
        return quantize_at(self._augment(x, generator), self._exponent), y

    def step(self, x: Int8Tensor, y: Tensor, step: int, steps: int) -> int:
        rate = self._hyper.rate * factor(self._hyper.schedule, step, steps) >> FACTOR_BITS
        mu = self._hyper.mu - step * (self._hyper.mu_drop + 1) // steps
        for group in self.optimizer.param_groups:
            group.update({"rate": rate} if group["zo"] else {"mu": mu})

        def closure() -> Loss:
            self.passes += 1
            return self._loss(self._network(x), y)

        return self.optimizer.step(closure).total()

    @torch.no_grad()
    def loss(self, x: Int8Tensor, y: Tensor) -> float:
        return self._loss(self._network(x), y).mean()

    def mean_loss(self, losses: float, steps: int, batch_size: int) -> float:
        return losses * NAT / (steps * batch_size)

    @torch.no_grad()
    def evaluate(self) -> tuple[float, float]:
        loss, right, n = 0, 0, len(self.test_x)
        for first in range(0, n, EVALUATION_BATCH):
            x = Int8Tensor(self.test_x[first : first + EVALUATION_BATCH], self._exponent)
            labels = self.test_y[first : first + EVALUATION_BATCH]
            logits = self._network(x)
            loss += self._loss(logits, labels).total()
            right += int((logits.m.argmax(1) == labels).sum())
        return 100 * right / n, loss * NAT / n
