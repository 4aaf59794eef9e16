"""The noise on the outputs of layers, and what is learnt from it: see `ezo.nodes`."""

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag

from ezo import kernels
from ezo.kernels import Shown
from ezo.nodes.layers import Layer
from ezo.noise import GROUP, draw
from ezo.passes import Passes
from ezo.step import Difference, Losses
from ezo.stream import checking
from ezo.stream import first as first_of_chunk

STREAM = 1 << 31  # the first of the queries' noise streams; those of the weights are 0, 1, ...
SMALL_ROWS = 1024  # of a batch that `ezo.kernels.output_errors` serves; more goes by torch's sums


class NodeUpdate(NamedTuple):
    """A query's update of the layers with nodes; with the layers' inputs it is all there is.

    Attributes:
        seed, step, query: where the noise stands in the stream.
        groups: (sigma, clip, rate, decay) of each group of layers.
        differences: (loss+_i - loss-_i) / 2, (N,).
    """

    seed: int
    step: int
    query: int
    groups: tuple[tuple[float, float | None, float, float], ...]
    differences: Tensor


class _Call(NamedTuple):
    """A call of a layer in the last pass.

    Fields:
        first: index in the batch of its first example.
        x: input, (N, ..., K). version: of x, which changes with its numbers.
        on: units that the ReLU lets through, (N, ..., U), or None.
        winner: the point with the largest output, (N, U), or None.
    """

    first: int
    x: Tensor
    version: int
    on: Tensor | None
    winner: Tensor | None


class NodePerturbation:
    """Noise on layers' outputs, of an `ezo.step.Perturbation`'s face. It lives for one step.

    Args:
        groups: the layers, by group.
        settings: the groups' ``lr``, ``sigma``, ``clip`` and ``weight_decay``.
        place: (seed, step) in the noise stream.
        queries: of a step.
        noise: one of `ezo.noise.NOISES`.
    """

    def __init__(
        self,
        groups: Sequence[list[Layer]],
        settings: Sequence[dict[str, Any]],
        place: tuple[int, int],
        queries: int,
        noise: str,
    ) -> None:
        self._groups, self._settings = groups, settings
        self.parameters = [p for of in groups for layer in of for p in layer.parameters]
        self._place, self._queries, self._noise = place, queries, noise
        self._query = self._side = 0
        self._calls: dict[int, list[_Call]] = {}
        self._passes: Passes | None = None
        self._latest: tuple[int, Tensor | None] = (-1, None)  # the last layer called, its output

    @contextlib.contextmanager
    def attached(self, passes: Passes) -> Iterator[None]:
        """Within, passes meet the noise where this stands, and their inputs are kept."""
        self._passes = passes
        places = [vars(layer.module) for layers in self._groups for layer in layers]
        before = [of.get("forward") for of in places]
        for layers, settings in zip(self._groups, self._settings, strict=True):
            for layer in layers:
                forward = self._forward(layer, float(settings["sigma"]), layer.module.forward)
                vars(layer.module)["forward"] = forward
        try:
            yield
        finally:
            for of, own in zip(places, before, strict=True):
                del of["forward"]
                if own is not None:
                    of["forward"] = own
            self._calls = {}

    def move(self, query: int, start: int, end: int) -> None:
        self._query, self._side = query, end
        self._calls = {}  # a pass begins, or all are over

    def learn(self, query: int, losses: Losses, difference: Difference) -> NodeUpdate:
        examples = {point: loss.examples for point, loss in losses.items()}
        if any(of is None for of in examples.values()):
            raise ValueError(
                "expected each example's losses, (N,), from the closure, which nodes learn from, "
                'got a scalar; return for example cross_entropy(model(x), y, reduction="none")'
            )
        differences = difference(examples) / 2
        self._expect_calls(len(differences))
        groups = []
        for of in self._settings:
            lr, clip = float(of["lr"]), of["clip"]
            # the decay goes with the update that is applied first, the last query's
            decay = lr * of["weight_decay"] if query == self._queries - 1 else 0.0
            bound = None if clip is None else float(clip)
            groups.append((float(of["sigma"]), bound, lr / self._queries, float(decay)))
        return NodeUpdate(*self._place, query, tuple(groups), differences)

    def apply(self, update: NodeUpdate, start: int) -> None:
        for layers, (sigma, clip, rate, decay) in zip(self._groups, update.groups, strict=True):
            d = update.differences
            if clip is not None:
                d = d.clamp(-clip * sigma, clip * sigma)
            scale = d / (sigma * len(d))
            for layer in layers:
                calls = self._calls[layer.number]
                if _small(layer, calls):
                    shown = Shown(calls[0].x, calls[0].on, scale.to(torch.float32))
                    _learn_small(layer, shown, self._drawn(layer.number, update.query), rate, decay)
                    continue
                errors = [self._error(layer, update.query, call, scale) for call in calls]
                learn_layer(layer, calls, errors, rate, decay)

    def _forward(self, layer: Layer, sigma: float, own: Callable[..., Tensor]) -> Any:
        """The layer's forward in a pass: its own, and the noise."""
        number, relu = layer.number, layer.relu
        special = layer.maximum or type(layer.module) is not nn.Linear
        passes = self._passes
        assert passes is not None

        def forward(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            y = own(input, *args, **kwargs)
            if checking():
                return y
            first = passes.first + first_of_chunk()
            if (calls := self._calls.get(number)) is None:
                calls = self._calls[number] = []
            elif calls[-1].first == first:
                raise ValueError(
                    f"expected a pass to call '{layer.name}', which has nodes, once, got twice; "
                    "leave it out of the nodes' layers, and where the closure yields "
                    "micro-batches, yield each example's losses"
                )
            if y.dim() < 2 + layer.maximum or (layer.maximum and y.dim() > 3):
                form = "three dimensions" if layer.maximum else "(N, ..., U)"
                raise ValueError(
                    f"expected an output of {form} of '{layer.name}', which has nodes, with the "
                    f"examples first, got shape {tuple(y.shape)}; give it batches, or leave "
                    "it out of the nodes' layers"
                )
            x = input.detach()  # (N, ..., K)
            if special:
                return self._special(layer, first, x, y, sigma)
            on = self._shift(number, relu, first, y, self._side * sigma)
            calls.append(_Call(first, x, x._version, on, None))
            self._latest = number, y
            return y

        if "torch._dynamo" in sys.modules:  # compiled code around it runs it as it is
            return torch.compiler.disable(forward)
        return forward

    def _special(self, layer: Layer, first: int, x: Tensor, output: Tensor, sigma: float) -> Tensor:
        """What a layer that is pointwise, before a maximum, or of a class of its own, gives."""
        y = output  # (N, ..., U)
        if isinstance(layer.module, nn.Conv1d):
            x, y = x.mT, y.mT
        winner = None
        if layer.maximum:  # all that counts, so it may stand for the rest: y is freed
            y, winner = y.max(-2)  # (N, U)
        on = self._shift(layer.number, layer.relu, first, y, self._side * sigma)
        self._calls[layer.number].append(_Call(first, x, x._version, on, winner))
        if layer.maximum:
            return y.unsqueeze(-1 if isinstance(layer.module, nn.Conv1d) else -2).expand_as(output)
        self._latest = layer.number, output
        return output

    def _expect_calls(self, examples: int) -> None:
        """Raises:
        ValueError: the last pass did not show each layer's input once for each example.
        """
        for layer in [layer for layers in self._groups for layer in layers]:
            calls = self._calls.get(layer.number, [])
            if not calls:
                raise ValueError(
                    f"expected every pass to call '{layer.name}', which has nodes, got none that "
                    "did; leave it out of the nodes' layers, so that its weights are perturbed"
                )
            if (seen := sum(len(call.x) for call in calls)) != examples:
                raise ValueError(
                    f"expected an output (N, ..., U) of '{layer.name}', which has nodes, for the "
                    f"{examples} examples of the loss, got {seen}; put the examples first, or "
                    "leave it out of the nodes' layers"
                )
            if any(call.x._version != call.version for call in calls):
                raise ValueError(
                    f"expected the input of '{layer.name}', which has nodes, to stay until the "
                    "update, got one that was written to in place; compute out of place, or leave "
                    "it out of the nodes' layers"
                )

    def _shift(self, number: int, relu: bool, first: int, y: Tensor, by: float) -> Tensor | None:
        """y <- y + by z in place, (N, ..., U); the units that a ReLU then lets through, or None."""
        if y.requires_grad:
            torch.autograd.graph.increment_version(y)
        if by and not first:
            return kernels.output_shift(y, self._drawn(number, self._query), by, relu)
        if by:
            y.add_(self._draw(number, self._query, first, tuple(y.shape), y).mul_(by))
        return y > 0 if relu else None

    def _drawn(self, number: int, query: int) -> kernels.OutputNoise:
        return self._noise, number, (*self._place, STREAM + query)

    def _error(self, layer: Layer, query: int, call: _Call, scale: Tensor) -> Tensor:
        """e_i / N of a call's examples, (rows, U)."""
        n, units = len(call.x), layer.parameters[0].shape[0]
        shape = (n, units) if layer.maximum else (*call.x.shape[:-1], units)
        e = self._draw(layer.number, query, call.first, shape, call.x)
        own = scale[call.first : call.first + n].view(n, *[1] * (e.dim() - 1))
        e.mul_(own.to(e.dtype))
        if call.on is not None:
            e.mul_(call.on)
        return e.flatten(0, -2)

    def _draw(
        self, number: int, query: int, first: int, shape: tuple[int, ...], like: Tensor
    ) -> Tensor:
        """Noise of examples from ``first`` on: the whole batch's is one tensor of the stream."""
        size = math.prod(shape)
        begin = first * (size // shape[0]) if size else 0
        if begin == 0:
            z = torch.empty(shape, dtype=torch.float32, device=like.device)
            kernels.fill(z, *self._drawn(number, query))
        else:
            g, end = begin // GROUP, -(-(begin + size) // GROUP)
            seed, step = self._place
            z = draw(self._noise, seed, step, number, STREAM + query, g, end, like.device)
            z = z[begin - g * GROUP :][:size].view(shape)
        return z.to(like.dtype)


def _small(layer: Layer, calls: list[_Call]) -> bool:
    """Whether `ezo.kernels.output_errors` serves an update, whichever backend is at hand."""
    x, weight = calls[0].x, layer.parameters[0]
    if len(calls) > 1 or x.dim() != 2 or weight.dim() != 2 or layer.maximum or len(x) > SMALL_ROWS:
        return False
    return x.is_cpu and x.is_contiguous() and x.dtype is weight.dtype is torch.float32


def _learn_small(
    layer: Layer, shown: Shown, drawn: kernels.OutputNoise, rate: float, decay: float
) -> None:
    for p in layer.parameters if decay else ():
        p.mul_(1 - decay)
    weight, *rest = layer.parameters
    bias = rest[0] if rest else None
    e = kernels.output_errors(shown, len(weight), bias, drawn, rate)
    weight.addmm_(e.mT, shown.x, alpha=-rate)


def learn_layer(
    layer: Layer, calls: list[_Call], errors: list[Tensor], rate: float, decay: float
) -> None:
    """The update of W and b from e_i / N, (rows, U), of each call."""
    for p in layer.parameters if decay else ():
        p.mul_(1 - decay)
    (_learn_maximum if layer.maximum else _learn)(layer, calls, errors, rate)


def _learn(layer: Layer, calls: list[_Call], errors: list[Tensor], rate: float) -> None:
    """One product a call. As xbar is the batch's mean, D = sum_i (e_i - ebar) x_i' (e_i over N)."""
    weight = layer.parameters[0].flatten(1)  # (U, K)
    inputs = [call.x.flatten(0, -2) for call in calls]  # (rows, K)
    if len(layer.parameters) == 1:
        for e, x in zip(errors, inputs, strict=True):
            weight.addmm_(e.mT, x, alpha=-rate)
        return
    rows = sum(map(len, inputs))
    total = _sum(errors)  # (U,)
    mean = _sum(inputs).div_(rows)  # xbar, (K,)
    bias = layer.parameters[1].sub_(total, alpha=rate)
    total.div_(rows)
    for e, x in zip(errors, inputs, strict=True):
        centred = e.sub_(total).mT  # (U, rows)
        bias.addmv_(centred, x.mv(mean), alpha=rate)
        weight.addmm_(centred, x, alpha=-rate)


def _sum(parts: list[Tensor]) -> Tensor:
    """Over the rows of all."""
    first, *rest = [part.sum(0) for part in parts]
    for other in rest:
        first.add_(other)
    return first


def _learn_maximum(layer: Layer, calls: list[_Call], errors: list[Tensor], rate: float) -> None:
    """From the winners' inputs, which differ by unit, and so do their means."""
    weight, total = layer.parameters[0].flatten(1), _sum(errors)  # (U, K), (U,)
    n, centred = sum(map(len, errors)), len(layer.parameters) > 1
    update, mean = torch.zeros_like(weight), torch.zeros_like(weight)
    for call, e in zip(calls, errors, strict=True):
        inputs, won = call.x.flatten(0, 1), _won(call)  # (N P, K), (U, N)
        share = (e - total / n if centred else e).mT.contiguous()
        update.add_(embedding_bag(won, inputs, per_sample_weights=share, mode="sum"))
        if centred:
            mean.add_(embedding_bag(won, inputs, mode="sum"), alpha=1 / n)
    if centred:
        layer.parameters[1].sub_(total - (update * mean).sum(1), alpha=rate)
    weight.sub_(update, alpha=rate)


def _won(call: _Call) -> Tensor:
    """Rows of the inputs, (N P, K), at the points that won, (U, N)."""
    assert call.winner is not None
    n, points = call.x.shape[:2]
    first = torch.arange(0, n * points, points, device=call.winner.device)
    return (call.winner + first.unsqueeze(1)).mT.contiguous()
