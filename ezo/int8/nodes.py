"""Node perturbation in integers: int8 noise on the outputs of linear layers, an update from int8.

As `ezo.nodes`, without a floating-point number. Noise n_iu is -1 or 1, or 0 in all but a share p of
cases, drawn again for the update:

    plus, minus   y <- clip(y + sigma n), y - sigma n: last places of the requantized output, before
                  its ReLU; of the logits, which are accumulators, of 2^-4
    d_i   = clip((loss+_i - loss-_i + 2^12) >> 13, +-127)           2^-7 bit
    e_iu  = d_i n_iu on_iu                                          on: past a ReLU; else 1
    c_iu  = clip(e_iu - round(mean_i e_iu), +-127)                  without a bias c = e
    G     = sum_i c_i x_i'                                          the last pass's inputs, int8
    W    <- clip(W - PSR(G rate_W))
    b    <- clip(b - PSR(sum_i e_i rate_b) + PSR((G xbar >> 16) rate_m))
    xbar  = round(2^8 mean_i x_i)

Each rate is a multiplier of up to 16 bits and a shift, by which W and b move alike in real numbers:
with E_x, E_y, E_W, E_b the exponents of input, noisy output, weight and bias, and F bits of
fraction,

    rate_W = rate 2^(E_x - E_y - E_W + F - 30) / (N sigma p)
    rate_b = rate 2^(-E_y - E_b + F - 30) / (N sigma p)
    rate_m = rate_b 2^(2 E_x + 8)

PSR is NITI's rounding (`ezo.int8.rounding`); round, and >> but for d's, which is an arithmetic
shift, are to nearest, halves away from zero. Nothing here depends on the order of a sum.

Before a maximum over points, noise is on the maximum, and x_i, for each unit, the winner's input.

Index letters: N example, P point, U output (unit), K input, i example, u unit.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ezo import kernels, noise
from ezo.int8.layers import Linear, Weighted
from ezo.int8.loss import LOSS_FRACTION_BITS
from ezo.int8.maps import MaxOverPoints
from ezo.int8.network import Network
from ezo.int8.perturb import FRACTION_BITS
from ezo.int8.rounding import LARGEST
from ezo.int8.tensor import Int8Tensor
from ezo.kernels import NodeRates, Rate, Seen, Signs
from ezo.step import Difference, Losses

STREAM = 3 << 30  # the first of the queries' noise streams; others are below 2^31 + 2^12
DIFFERENCE_BITS = 7  # of a difference, below one bit
LOGIT_EXPONENT = -4  # of a last place of the logits, as noise counts them
RATE_BITS = 30  # of a rate, and of the differences' unit and half: 22 + 8
MULTIPLIER_BITS = 16
MEAN_BITS = 8  # of an input's mean, below its last place
ALONG_BITS = 16  # of G xbar, that are dropped
LARGEST_ALONG = 1 << 38
LARGEST_RATE = 1 << 24
MOST_LEFT = 8  # bits that a multiplier may have beyond those


@dataclass(frozen=True)
class Nodes:
    """Layers whose outputs are perturbed, and how they learn.

    Attributes:
        rate: learning rate, in real numbers and for losses in bits, times 2^22; 0 to 2^24.
        sigma: size of the noise, in last places of an output, 1 to 63.
        sparse: 0 to 3: an output has noise with a probability of p = 2^-sparse.
        layers: names of the network's nodes; None for each linear layer of the ZO part but those
            whose outputs are points, unless the maximum over them follows.
    """

    rate: int = 17_400
    sigma: int = 1
    sparse: int = 0
    layers: Iterable[str] | None = None


class NodeUpdate(NamedTuple):
    """A query's update of the layers with nodes; with the layers' inputs it is all there is.

    Attributes:
        seed, step, query: where the noise stands in the stream.
        rate: the query's share.
        sigma, sparse: of the noise.
        differences: d, int8, (N,).
    """

    seed: int
    step: int
    query: int
    rate: int
    sigma: int
    sparse: int
    differences: Tensor


def signs(drawn: Signs, n: int, device: noise.Device = "cpu") -> Tensor:
    """Noise of the first ``n`` elements of a tensor (N, U): -1, 0 or 1, int8, (n,).

    ``drawn`` is (place, tensor, sparse). A word of `ezo.noise.words` serves eight elements with
    four bits each, its lowest the first: the sign, 1 for -1, and three of which the first
    ``sparse`` must be 0, else the noise is.
    """
    (seed, step, stream), tensor, sparse = drawn
    groups = -(-n // (8 * noise.GROUP))
    words = noise.words(seed, step, tensor, stream, 0, groups, device).view(-1, 1)
    bits = (words >> torch.arange(0, 32, 4, device=device)) & 15  # word, element
    on = (bits >> 1) & ((1 << sparse) - 1) == 0
    return ((1 - 2 * (bits & 1)) * on).to(torch.int8).flatten()[:n]


def rate_of(rate: int, divisor: int, exponent: int) -> Rate:
    """rate 2^exponent / divisor as a multiplier and a shift, of the multiplier's precision.

    >>> rate_of(3, 32, 0), rate_of(1 << 22, 3, -30)
    (Rate(times=3, shift=5), Rate(times=21845, shift=24))
    """
    up = max(0, MULTIPLIER_BITS + divisor.bit_length() - rate.bit_length())
    times = (rate << up) // divisor
    while times >> MULTIPLIER_BITS or (times and not times & 1):  # odd, so that low bits vary
        times, up = times >> 1, up - 1
    shift = up - exponent
    if times == 0 or shift > 62:
        return Rate(0, 0)
    return Rate(times << min(max(-shift, 0), MOST_LEFT), max(shift, 0))


class Node:
    """The noise on a layer's output in a pass, and what the pass showed there.

    Args:
        drawn: its noise (`signs`).
        by: sigma on the pass's side of the outputs; 0 for none.
    """

    def __init__(self, drawn: Signs, by: int) -> None:
        self._drawn, self._by = drawn, by
        self.seen: Seen | None = None
        self.exponents = 0, 0  # of input and noisy output

    def perturb(self, x: Int8Tensor, y: Int8Tensor, relu: bool, where: Tensor | None) -> None:
        """Noise on the output ``y`` of input ``x``, in place, and the ReLU that follows."""
        logits = y.m.dtype == torch.int32
        up = max(0, LOGIT_EXPONENT - y.e) if logits else 0
        kernels.node_shift(y.m, self._drawn, self._by << up, relu)
        self.seen = Seen(x.m, y.m if relu else None, where)
        self.exponents = x.e, y.e + up


class NodePerturbation:
    """Noise on layers' outputs, of an `ezo.step.Perturbation`'s face. It lives for one step.

    Args:
        layers: each with its number in the noise stream.
        group: with ``rate`` and ``sigma``.
        place: (seed, step) in the noise stream.
        queries: of a step.
        state: an optimiser's, with fractions.
    """

    def __init__(
        self,
        layers: Sequence[tuple[int, Weighted]],
        group: Mapping[str, Any],
        place: tuple[int, int],
        queries: int,
        state: Mapping[Any, Any],
    ) -> None:
        self._layers, self._group, self._queries = layers, group, queries
        self._place, self._state = place, state

    def move(self, query: int, start: int, end: int) -> None:
        """A pass begins, or all are over: passes meet the noise, and their inputs are kept."""
        place = (*self._place, STREAM + query)
        sigma, sparse = self._group["sigma"], self._group["sparse"]
        for number, layer in self._layers:
            layer.node = Node((place, number, sparse), end * sigma)

    def learn(self, query: int, losses: Losses, difference: Difference) -> NodeUpdate:
        change = difference({point: loss.per_example() for point, loss in losses.items()})
        self._expect_all(len(change))
        down = LOSS_FRACTION_BITS - DIFFERENCE_BITS
        d = ((change + (1 << (down - 1))) >> down).clamp_(-LARGEST, LARGEST).to(torch.int8)
        rate = self._group["rate"] // self._queries
        sigma, sparse = self._group["sigma"], self._group["sparse"]
        return NodeUpdate(*self._place, query, rate, sigma, sparse, d)

    def apply(self, update: NodeUpdate, start: int) -> None:
        place = (update.seed, update.step, STREAM + update.query)
        for number, layer in self._layers:
            node = layer.node
            seen, d = node.seen, update.differences
            if seen.where is None and seen.x.dim() > 2:  # each position of an example by its d
                d = d.repeat_interleave(seen.x[..., 0].numel() // len(d))
                y = None if seen.y is None else seen.y.flatten(0, -2)
                seen = Seen(seen.x.flatten(0, -2), y, None)
            rates = self._rates(update, layer, node.exponents, len(d))
            own = layer.parameters(recurse=False)
            fractions = [self._state.get(p, {}).get("fraction") for p in own]
            what = kernels.Layer(layer.weight, layer.bias)
            drawn = (place, number, update.sparse)
            kernels.node_update(what, fractions, seen, d, drawn, rates)

    def _rates(
        self, update: NodeUpdate, layer: Weighted, exponents: tuple[int, int], n: int
    ) -> NodeRates:
        x, y = exponents
        fine = FRACTION_BITS if self._state else 0
        of = update.rate, n * update.sigma
        fine += update.sparse - RATE_BITS
        weight = rate_of(*of, x - y - layer.weight_exponent + fine)
        bias = -y - layer.bias_exponent + fine
        return NodeRates(weight, rate_of(*of, bias), rate_of(*of, bias + 2 * x + 8))

    def _expect_all(self, examples: int) -> None:
        """Raises:
        ValueError: the last pass did not show each layer's input for each example.
        """
        for _, layer in self._layers:
            seen = None if layer.node is None else layer.node.seen
            if seen is None or len(seen.x) != examples:
                got = "none" if seen is None else f"{len(seen.x)}"
                raise ValueError(
                    "expected the closure to call the model once, for each example of its loss: "
                    f"{examples} of them, got {got} in a layer with nodes; return "
                    "Loss(model(x), y)"
                )


def find(model: Network, layers: Sequence[Weighted], nodes: bool | Nodes) -> list[Weighted]:
    """Those of ``layers``, the ZO part, that have nodes; none where nodes are off.

    Raises:
        ValueError: a layer that is wanted can't have nodes, or the nodes are none.
    """
    if nodes is False or not layers:
        return []
    if nodes is not True and not isinstance(nodes, Nodes):
        raise ValueError(
            f"expected nodes to be True, False or ezo.int8.Nodes, got {nodes!r}; give for example "
            "Nodes(rate=10_000)"
        )
    able = {name: layer for name, layer in _able(model) if layer in layers}
    wanted = None if nodes is True else nodes.layers
    if wanted is None:
        return list(able.values())
    for name in wanted:
        if name not in able:
            raise ValueError(
                f"expected nodes on layers that can have them, {', '.join(able) or 'of which none'}"
                f", got '{name}'; leave it out"
            )
    return [able[name] for name in able if name in set(wanted)]


def group_of(nodes: bool | Nodes, layers: Sequence[Weighted]) -> dict[str, Any]:
    """The parameter group of layers with nodes."""
    of = nodes if isinstance(nodes, Nodes) else Nodes()
    params = [p for layer in layers for p in layer.parameters(recurse=False)]
    values = {"rate": of.rate, "sigma": of.sigma, "sparse": of.sparse}
    return {"params": params, "zo": True, **values, "mu": 0}


def _able(model: Network) -> Iterator[tuple[str, Weighted]]:
    """Linear layers, but those of points whose maximum does not follow before other weights."""
    rest = list(model.nodes)
    maxima = [i for i, node in enumerate(rest) if isinstance(node.layer, MaxOverPoints)]
    for i, node in enumerate(rest):
        if isinstance(node.layer, Linear):
            later = [m for m in maxima if m > i]
            if not later or not any(isinstance(n.layer, Weighted) for n in rest[i + 1 : later[0]]):
                yield node.name, node.layer
