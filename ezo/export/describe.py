"""An integer network and its optimiser as plain numbers: what a device needs, and no more.

This is the one file of the export that knows how `ezo.int8` keeps its layers and its state.
"""

import contextlib
import copy
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ezo.export.forms import check_form
from ezo.int8 import ElasticZO, Int8Tensor
from ezo.int8.layers import Layer, Weighted
from ezo.int8.loss import LOSS_FRACTION_BITS
from ezo.int8.maps import Flatten, MaxPool2d, ReLU
from ezo.int8.network import Network

Bytes = NDArray[np.int8]

_BELOW = LOSS_FRACTION_BITS - 10  # bits of a loss's unit below 2^-10 bit
LARGEST_BATCH = 4096  # examples whose losses an int64 can add up
LARGEST_DIFFERENCE = 1 << 30  # 2^-10 bit, times a rate of 2^24 within uint64
LARGEST_SIZE = (1 << 16) - 1  # of a dimension
# Where a step's gradient is taken, in C: the last pass of central differences is at theta - z.
_GRADIENTS = {"plus": "plus", "minus": "minus", "last": "minus", "unperturbed": "unperturbed"}


@dataclass(frozen=True)
class Stage:
    """A layer, with the ReLU and the maximum that follow it.

    Attributes:
        kind: name of the layer's class, by which its C form is found.
        name: the layer in an error message.
        weight, bias: int8 numbers, flat; None for none.
        weight_exponent, bias_exponent: their exponents.
        inputs, outputs: shapes of an example, (C, H, W) or (I,).
        kernel, padding: of a convolution, else 1 and 0.
        relu: whether ReLU follows.
        pool: size of the maximum, 1 for none.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    weight: Bytes | None = None
    bias: Bytes | None = None
    weight_exponent: int = 0
    bias_exponent: int = 0
    kernel: int = 1
    padding: int = 0
    relu: bool = False
    pool: int = 1

    @property
    def parameters(self) -> list[Bytes]:
        """Weight and bias, those that there are."""
        return [p for p in (self.weight, self.bias) if p is not None]


@dataclass(frozen=True)
class Problem:
    """A network, what trains each of its layers, and where its training stands.

    Attributes:
        stages: in the order of the forward pass.
        first_trained, first_bp: stages before ``first_trained`` are frozen, those before
            ``first_bp`` are trained by ZO, the others by BP.
        input_exponent: of every example.
        fractions: one uint8 array for each trained parameter, or None.
        threshold, multiplier, bound: of the noise (`ezo.int8.perturb.SparseNoise`).
        rate, mu: as they are now in the optimiser.
        magnitude: ``sign`` or ``absolute``. gradient: ``plus``, ``minus`` or ``unperturbed``.
        largest_difference: 2^-10 bit.
    """

    stages: tuple[Stage, ...]
    first_trained: int
    first_bp: int
    input_exponent: int
    fractions: tuple[NDArray[np.uint8], ...] | None = None
    threshold: int = 0
    multiplier: int = 0
    bound: int = 127
    rate: int = 0
    mu: int = 0
    magnitude: str = "sign"
    gradient: str = "plus"
    largest_difference: int = 1
    queries: int = 1
    seed: int = 0
    steps: int = 0

    @property
    def trains(self) -> bool:
        return self.first_trained < len(self.stages)

    @property
    def weights(self) -> Bytes:
        """All weights, one after the other; those of frozen stages come first."""
        every = [p for stage in self.stages for p in stage.parameters]
        return np.concatenate(every)

    @property
    def frozen(self) -> int:
        """Weights of frozen stages."""
        return sum(len(p) for s in self.stages[: self.first_trained] for p in s.parameters)

    @property
    def trained(self) -> int:
        return len(self.weights) - self.frozen

    @property
    def identity(self) -> int:
        """CRC-32 of all that a state saved on a device must agree on with this problem."""
        shapes = [replace(s, weight=None, bias=None, name="") for s in self.stages]
        sizes = [[len(p) for p in stage.parameters] for stage in self.stages]
        parts = (self.first_trained, self.first_bp, self.input_exponent, self.seed)
        noise = (self.threshold, self.multiplier, self.bound, self.fractions is None)
        return zlib.crc32(repr((shapes, sizes, parts, noise)).encode())


def describe(network: Network, optimizer: ElasticZO | None, x: Int8Tensor) -> Problem:
    """A network, and its optimiser where it is to be trained, as plain numbers.

    Args:
        network: of `ezo.int8.from_float`.
        optimizer: None for prediction alone.
        x: an example or more, (n, ...), for its shape and exponent.

    Raises:
        ValueError: a layer or an option has no C form; the message names it.
    """
    _expect(network, optimizer, x)
    with dynamic(network):
        stages = _stages(network, x)
    if optimizer is None:
        return Problem(stages, len(stages), len(stages), x.e)
    if optimizer._model is not network:
        raise ValueError("expected the optimiser of this network, got another network's")
    if optimizer._node_layers:
        raise ValueError(
            "expected a method that perturbs weights, which has a C form, full-zo or elastic-k, "
            "got nodes, as full-zo-node and elastic-node-k have; train with one of those"
        )
    places = [i for i, stage in enumerate(stages) if stage.weight is not None]
    zo = next((group for group in optimizer.param_groups if group["zo"]), None)
    bp = next((group for group in optimizer.param_groups if not group["zo"]), None)
    n = len(optimizer._bp_layers)
    first_bp = places[len(places) - n] if n else len(stages)
    trained = network.weighted()[0 if zo else len(places) - n :]
    for node in network.nodes:
        if isinstance(node.layer, Weighted) and node.layer in trained and node.layer.frozen:
            raise ValueError(
                f"expected trained layers without frozen parts, got {node.name} with its "
                f"{' and '.join(sorted(node.layer.frozen))} frozen; thaw it, or take tail-only-k"
            )
    _check(stages[first_bp:], optimizer)
    noise = optimizer._noise
    fractions = None
    if optimizer.state:
        fractions = tuple(_numbers(optimizer.state[p]["fraction"]) for p in _trained(optimizer))
    return Problem(
        stages,
        0 if zo else first_bp,
        first_bp,
        x.e,
        fractions,
        noise.threshold,
        noise.multiplier,
        noise.bound,
        zo["rate"] if zo else 0,
        bp["mu"] if bp else 0,
        optimizer._magnitude if zo else "sign",
        _GRADIENTS.get(optimizer._bp_gradient, "") if zo and bp else "plus",
        optimizer._largest_difference >> _BELOW,
        optimizer._queries if zo else 1,
        optimizer._seed,
        optimizer._steps,
    )


def _expect(network: object, optimizer: object, x: object) -> None:
    for given, kind, fix in (
        (network, Network, "convert with ezo.int8.from_float"),
        (optimizer, ElasticZO, "train with ezo.int8.ElasticZO"),
        (x, Int8Tensor, "quantise with ezo.int8.quantize"),
    ):
        if given is not None and not isinstance(given, kind):
            got = f"{type(given).__module__}.{type(given).__name__}"
            raise ValueError(f"expected an integer {kind.__name__}, got {got}; {fix}")


@contextlib.contextmanager
def dynamic(network: Network) -> Iterator[None]:
    """Within, each batch sets its own shifts, as in training and on a device."""
    training = network.training
    network.train()
    try:
        yield
    finally:
        network.train(training)


def restore(
    network: Network, optimizer: ElasticZO, steps: int, weights: Bytes, fraction: Any
) -> None:
    """Give a network and its optimiser what a device has learnt."""
    at = 0
    with torch.no_grad():
        for p in _trained(optimizer):
            to = [p] if fraction is None else [p, optimizer.state[p]["fraction"]]
            for t, values in zip(to, (weights, fraction), strict=False):
                t.copy_(torch.from_numpy(values[at : at + p.numel()].copy()).view(p.shape))
            at += p.numel()
    optimizer._steps = steps


def twin(network: Network, optimizer: ElasticZO) -> tuple[Network, ElasticZO]:
    """A copy of both, to be trained without a trace in them."""
    network = copy.deepcopy(network)
    made = ElasticZO(
        network,
        len(optimizer._bp_layers),
        zo=any(group["zo"] for group in optimizer.param_groups),
        noise=optimizer._noise,
        magnitude=optimizer._magnitude,
        largest_difference=optimizer._largest_difference >> _BELOW,
        fraction=bool(optimizer.state),
        queries=optimizer._queries,
        bp_gradient=optimizer._bp_gradient,
    )
    made.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return network, made


def _trained(optimizer: ElasticZO) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _check(bp_stages: tuple[Stage, ...], optimizer: ElasticZO) -> None:
    for stage in bp_stages:
        if stage.kind != "Linear" or stage.pool != 1:
            what = f"{stage.name}, {'MaxPool2d' if stage.kind == 'Linear' else stage.kind}"
            raise ValueError(
                f"expected the BP part to be linear layers and ReLU, which have a C form backward, "
                f"got {what}; train fewer layers by BP"
            )
    zo = optimizer.param_groups[0]["zo"]
    if zo and optimizer._estimator != "central":
        raise ValueError(
            f"expected estimator central, which has a C form, got {optimizer._estimator}"
        )
    if optimizer._bp_gradient == "mean" and len(optimizer._bp_layers) and zo:
        raise ValueError(
            "expected bp_gradient plus, minus, last or unperturbed, got mean, which holds a "
            "gradient through a pass; train with plus"
        )
    if optimizer._largest_difference >> _BELOW >= LARGEST_DIFFERENCE:
        raise ValueError(
            f"expected largest_difference below {LARGEST_DIFFERENCE}, so that 64 bits hold its "
            f"product with a rate, got {optimizer._largest_difference >> _BELOW}"
        )


def _stages(network: Network, x: Int8Tensor) -> tuple[Stage, ...]:
    shape = tuple(x.m.shape[1:])
    stages: list[Stage] = []
    for node in network.nodes:
        layer, name, before = node.layer, f"layer {node.name}", shape
        check_form(network, node)
        shape = _shape_after(layer, shape)
        if max(shape) > LARGEST_SIZE:
            raise ValueError(f"expected dimensions up to {LARGEST_SIZE}, got {shape} at {name}")
        last = stages[-1] if stages else None
        if isinstance(layer, Flatten):
            continue
        if isinstance(layer, ReLU) and last is not None:
            stages[-1] = replace(last, relu=True)
        elif isinstance(layer, MaxPool2d) and last is not None and last.pool == 1:
            stages[-1] = replace(last, pool=layer.size, outputs=shape)
        elif isinstance(layer, MaxPool2d):
            stages.append(Stage("MaxPool2d", name, before, shape, pool=layer.size))
        elif isinstance(layer, Weighted):
            stages.append(_weighted(layer, name, before, shape))
        else:
            raise ValueError(
                f"can't export {name}, {type(layer).__name__}: it has no C form there; a file in "
                "ezo/export/runtime gives a layer one"
            )
    return tuple(stages)


@torch.no_grad()
def exponents(network: Network, x: Int8Tensor) -> list[int]:
    """The exponent of each stage's outputs on a batch; the last's are the sums'."""
    found: list[int] = []
    pooled = True  # the last stage has its maximum, or there is none
    for layer in network.layers:
        x = layer(x)
        apart = isinstance(layer, MaxPool2d) and pooled
        if isinstance(layer, Weighted) or apart:
            found.append(x.e)
            pooled = apart
        elif isinstance(layer, MaxPool2d):
            pooled = True
    return found


def _weighted(layer: Weighted, name: str, before: tuple[int, ...], after: tuple[int, ...]) -> Stage:
    kind = type(layer).__name__
    if kind == "Linear" and len(before) != 1:
        raise ValueError(
            f"can't export {name}, Linear on points {before}: only a flat input has a C form"
        )
    bias = None if layer.bias is None else _numbers(layer.bias)
    kernel = layer.weight.shape[2] if layer.weight.dim() == 4 else 1
    assert isinstance(layer.padding, int)  # `check_form`
    return Stage(
        kind,
        name,
        before,
        after,
        _numbers(layer.weight),
        bias,
        layer.weight_exponent,
        layer.bias_exponent,
        kernel,
        layer.padding,
    )


@torch.no_grad()
def _shape_after(layer: Layer, shape: tuple[int, ...]) -> tuple[int, ...]:
    """An example's shape, by giving the layer one."""
    one = Int8Tensor(torch.zeros((1, *shape), dtype=torch.int8), 0)
    return tuple(layer(one).m.shape[1:])


def _numbers(p: Tensor) -> Any:
    found: Any = p.detach().cpu().contiguous().view(-1).numpy().copy()
    return found
