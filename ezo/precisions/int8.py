"""Integers alone, 8 bits for weights, activations and errors."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import catalogue
from ezo.int8 import ElasticZO, FloatLoss, Int8Tensor, Loss, Nodes, SparseNoise
from ezo.int8.convert import from_float
from ezo.int8.loss import NAT, tables
from ezo.int8.nodes import find
from ezo.int8.ops import SumTooLong
from ezo.int8.tensor import quantize, quantize_at
from ezo.int8.trace import parametric
from ezo.methods import Parts
from ezo.methods._hyper import about
from ezo.precisions import EVALUATION_BATCH, Impossible, Step
from ezo.ranks import Ranks

NAMES = ("int8", "int8*")
ABOUT = {
    "int8*": "int8 with its loss in float64.",
}
ZO = (
    *("rate", "r_max", "p_zero", "magnitude", "largest_difference", "fraction", "schedule"),
    *("zo_growth", "queries"),
)
BP = ("mu", "mu_drop", "fraction", "growth")
NODES = ("rate_node", "sigma", "sparse", "node_growth", "bias_growth")
HALVINGS = 5  # of the rate, over an exponential schedule
FACTOR_BITS = 16
INPUT_BITS = 10  # of a layer's number of inputs, where its bias has ``bias_growth`` bits more room


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
        "ZO step size: sign (the paper's), or absolute, in proportion to the loss difference",
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
    rate_node: int = about(
        17_400,
        "rate of layers whose outputs are perturbed: 2^-22 of a learning rate, for losses in bits",
        later=True,
    )
    sigma: int = about(1, "their perturbation, in last places of an output, 1 to 63", later=True)
    sparse: int = about(
        0, "it falls on one output in 2^sparse, 0 to 3, drawn anew for each", later=True
    )
    node_growth: int = about(1, "what zo_growth is, of those layers", later=True)
    bias_growth: int = about(
        6,
        "how many bits more room their biases have than their weights, 0 to 12, with 512 to 1,023 "
        "inputs; with half as many one less",
        later=True,
    )
    bp_gradient: str = about(
        "plus",
        "where the BP gradient is taken: mean, plus, minus, last or unperturbed",
        later=True,
    )
    queries: int = about(1, "ZO perturbations a step", later=True)
    schedule: str = about(
        "cosine", "ZO rate over time: exponential (to 1/32), cosine (to 0) or constant"
    )


HYPER = Int8Hyper
WITH_NODES = Int8Hyper(rate=640_000, r_max=7, largest_difference=89)


def default(method: str | None) -> Int8Hyper:
    """The same for all methods, but where nodes leave few weights to perturb."""
    if method and getattr(catalogue.find("method", method), "INTEGERS", True):
        return WITH_NODES if _parts(method).nodes else Int8Hyper()
    return Int8Hyper()


def reads(method: str) -> frozenset[str]:
    """Those of the parts that the method has."""
    parts = _parts(method)
    return parts.reads(ZO + NODES if parts.nodes else ZO, BP)


def check(method: str, hyper: Int8Hyper) -> None:
    """Raises:
    ValueError: the method has no integer form, or a value is out of range; the optimiser checks the
        rest.
    """
    _parts(method)
    for field in fields(hyper):
        value = getattr(hyper, field.name)
        if isinstance(field.default, int) and type(value) is not int:
            raise ValueError(f"expected {field.name} to be an integer, got {value!r}")
    if hyper.fraction not in (0, 8):
        raise ValueError(f"expected fraction of 0 or 8, got {hyper.fraction}")
    most = {"growth": 6, "zo_growth": 6, "node_growth": 6, "bias_growth": 12}
    for name, bits in most.items():
        if not 0 <= getattr(hyper, name) <= bits:
            raise ValueError(f"expected {name} from 0 to {bits} bits, got {getattr(hyper, name)}")
    SparseNoise(hyper.r_max, hyper.p_zero)
    factor(hyper.schedule, 0, 1)
    if not 0 <= hyper.mu_drop <= hyper.mu + 20:
        raise ValueError(
            f"expected mu_drop from 0 to {hyper.mu + 20}, so that mu, {hyper.mu} at first, ends at "
            f"-20 or more, got {hyper.mu_drop}"
        )


def _parts(method: str) -> Parts:
    file = catalogue.find("method", method)
    if not getattr(file, "INTEGERS", True):
        able = [of for of in catalogue.members("method") if getattr(of, "INTEGERS", True)]
        known = [name for of in able for name in of.NAMES]
        raise ValueError(
            f"expected a method with an integer form, {', '.join(known)}, got {method}; "
            "give one of those, or --precision fp32"
        )
    parts: Parts = file.parts(method)
    return parts


def factor(schedule: str, step: int, steps: int) -> int:
    """Factor on the rate at a step, 0 to ``steps``, in units of 2^-16, by integer arithmetic.

    The cosine is Bhaskara's, cos(pi d) = (1 - 4 d^2) / (1 + d^2), within 0.002; 2^-f between two
    halvings is 1 - (4 f - f^2) / 6, within 0.4 %.

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


def layers(model: nn.Module) -> list[str]:
    """Those that become integer ones with weights, but frozen ones, in forward's order."""
    return parametric(model)


def make_step(
    name: str,
    model: nn.Module,
    method: str | None,
    hyper: Int8Hyper,
    seed: int = 0,
    *,
    device: torch.device | None = None,
    loss: Callable[[Any, Any], Any] | None = None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    ranks: bool | Ranks = False,
    estimator: str = "central",
) -> Step:
    """A model that `ezo.int8.from_float` can convert, by a method that has ``parts``.

    Inputs become int8 before the step, with one exponent for all: the training set's. Values beyond
    +-127 2^E are held there.
    """
    given = {"a loss": loss, "a bp_optimizer": bp_optimizer}
    if got := [what for what, value in given.items() if value is not None]:
        raise ValueError(
            f"expected the integer loss and update for {name}, got {' and '.join(got)}; leave that "
            "out, or use fp32"
        )
    loss_of = Loss if name == "int8" else FloatLoss
    return _Step(loss_of, model, method, hyper, seed, device, ranks, estimator)


class _Step(Step):
    def __init__(
        self,
        loss: Callable[[Int8Tensor, Tensor], Loss],
        model: nn.Module,
        method: str | None,
        hyper: Int8Hyper,
        seed: int,
        device: torch.device | None,
        ranks: bool | Ranks,
        estimator: str,
    ) -> None:
        self._loss, self._hyper = loss, hyper
        parts = _parts(method) if method is not None else Parts(0)
        network = from_float(model)
        cut = network.first_layer(parts.bp)
        zo = parts.zo and cut > 0
        if zo:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # it was told above
                network = from_float(model, headroom=hyper.r_max)
        nodes = Nodes(hyper.rate_node, hyper.sigma, hyper.sparse) if zo and parts.nodes else False
        with_nodes = find(network, network.weighted()[:cut], nodes)
        for place, layer in enumerate(network.weighted()):
            if place >= cut:
                layer.make_room(hyper.growth)
            elif layer in with_nodes:
                layer.make_room(hyper.node_growth)
                bits = hyper.bias_growth + layer.weight.shape[1].bit_length() - INPUT_BITS
                layer.make_bias_room(bits)
            elif zo:
                layer.make_room(hyper.zo_growth)
        self.model = self._network = network if device is None else network.to(device)
        self._bp = sum(any(layer.moving()) for layer in network.weighted()[cut:])
        if loss is Loss:
            tables(next(network.parameters()).device)  # stand from the first loss on
        if method is None:
            return
        named = ("rate", "mu", "magnitude", "largest_difference", "queries", "bp_gradient")
        self.optimizer = ElasticZO(
            self._network,
            self._bp,
            zo=parts.zo,
            noise=SparseNoise(hyper.r_max, hyper.p_zero),
            fraction=hyper.fraction > 0,
            estimator=estimator,
            ranks=ranks,
            nodes=nodes,
            seed=seed,
            **{of: getattr(hyper, of) for of in named},
        )

    @property
    def bp_layers(self) -> int:
        return self._bp

    def stream(self, chunk: int) -> None:
        self._network.chunk = chunk

    def calibrate(self, x: Any) -> Tensor:
        if not isinstance(x, Tensor):
            raise ValueError(
                f"expected one input, a tensor, for an integer step, got {type(x).__name__}; give "
                "that, or use fp32"
            )
        found = quantize(x)
        self._exponent = found.e
        return found.m

    def encode(self, x: Tensor) -> Tensor:
        return quantize_at(x, self._exponent).m

    def __call__(self, x: Tensor, y: Tensor) -> int:
        batch = Int8Tensor(x, self._exponent)

        def closure() -> Loss:
            self.passes += 1
            return self._loss(self._network(batch), y)

        if self.optimizer is None:
            return torch.no_grad()(closure)().total()
        try:
            total: int = self.optimizer.step(closure).total()
        except SumTooLong as error:
            raise Impossible(str(error)) from error
        return total

    def mean_loss(self, losses: float, steps: int, batch_size: int) -> float:
        return losses * NAT / (steps * batch_size)

    def schedule(self, step: int, steps: int) -> None:
        now = factor(self._hyper.schedule, step, steps)
        rate = self._hyper.rate * now >> FACTOR_BITS
        rate_node = self._hyper.rate_node * now >> FACTOR_BITS
        mu = self._hyper.mu - step * (self._hyper.mu_drop + 1) // steps
        for group in self.optimizer.param_groups:
            if group["zo"]:
                group["rate"] = rate_node if "sigma" in group else rate
            else:
                group["mu"] = mu

    @torch.no_grad()
    def evaluate(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        loss, right, n = 0, 0, len(x)
        for first in range(0, n, EVALUATION_BATCH):
            batch = Int8Tensor(x[first : first + EVALUATION_BATCH], self._exponent)
            labels = y[first : first + EVALUATION_BATCH]
            logits = self._network(batch)
            loss += self._loss(logits, labels).total()
            right += int((logits.m.argmax(1) == labels).sum())
        return 100 * right / n, loss * NAT / n

    @torch.no_grad()
    def logits(self, x: Tensor) -> Tensor:
        found: Tensor = self._network(Int8Tensor(x, self._exponent)).to_float()
        return found

    def predict_alone(self) -> bool:
        found = all(of.static_exponents is not None for of in self._network.weighted())
        if found:
            self._network.eval()
        return found

    def static_accuracy(self, x: Tensor, y: Tensor, seen: Tensor) -> float:
        self._network.calibrate(Int8Tensor(seen, self._exponent)).eval()
        try:
            return self.evaluate(x, y)[0]
        finally:
            self._network.train()
