"""How fast zeroth order can learn: what rate, what decrease a step, how many steps.

One ZO step moves the parameters by -lr v, v an estimate of the gradient that is right in the mean.
To second order the loss is then expected to fall by

    lr P - lr^2 G T / 2      at best P^2 / (2 G T), where lr = P / (G T)

    P = |E g|^2      squared norm of the mean gradient; g is one batch's
    G = E |g|^2      mean squared norm of a batch's gradient
    T = E[v' H v] / G, the curvature that an update meets, H the Hessian

With weight perturbation v = (z'g) z, and T = tr H + 2 E[g' H g] / G (z Gaussian), of which the
second part is left out: small beside the first in a network of many parameters. With node
perturbation v = mean_i (n_i' delta_i) n_i x_i', n_i noise on the outputs of the linear layers,
delta_i the loss's gradient there, x_i their inputs (Werfel, Xie and Seung 2003).

The rate is the best one here and now. G stays where P falls as training goes on, so the steps to a
loss are at least those that today's decrease says.

Index letters: b batch, i example, l layer.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from ezo.noise import GROUP, draw
from ezo.split import Split, split

Batch = TypeVar("Batch")
_Call = tuple[nn.Linear, Tensor, Tensor]


@dataclass(frozen=True)
class Signal:
    """What `measure` found.

    Attributes:
        loss: mean over the batches, nat.
        mean_gradient: P, nat^2 per unit of a parameter squared; without bias, so that it may come
            out below 0 where there is no signal to be seen in so few batches.
        batch_gradient: G, as P.
        curvature: T, nat per unit of a parameter squared.
        parameters: how many numbers ZO trains.
    """

    loss: float
    mean_gradient: float
    batch_gradient: float
    curvature: float
    parameters: int

    @property
    def rate(self) -> float:
        """The best learning rate, P / (G T); 0 with no signal, infinite with no curvature."""
        return self._best(max(self.mean_gradient, 0.0))

    @property
    def decrease(self) -> float:
        """What a step at that rate lowers the loss by, P^2 / (2 G T), nat."""
        return self._best(max(self.mean_gradient, 0.0) ** 2 / 2)

    def steps(self, nats: float) -> float:
        """How many steps, at the least, lower the loss by ``nats``.

        >>> Signal(2.3, mean_gradient=4, batch_gradient=10, curvature=80, parameters=9).steps(2.0)
        200.0
        """
        return nats / self.decrease if self.decrease else math.inf

    def _best(self, signal: float) -> float:
        noise = self.batch_gradient * self.curvature
        return 0.0 if signal == 0 else math.inf if noise <= 0 else signal / noise


def measure(
    model: nn.Module,
    loss: Callable[[Batch], Tensor],
    batches: Iterable[Batch],
    *,
    bp: Split = 0,
    nodes: bool = False,
    seed: int = 0,
) -> Signal:
    """P, G and T of a model where it stands; it is left as it was.

    A batch takes a forward pass and two backward ones. P is the mean of g_a' g_b over pairs of
    different batches; T is Hutchinson's estimate (1990) of the trace from one vector of signs a
    batch, or with ``nodes`` one update a batch, so give some dozens.

    Args:
        model: any module whose operations have second derivatives.
        loss: ``loss(batch)``, a scalar, the mean over the batch's examples, by ``model``.
        batches: two or more, such as a training step sees.
        bp: where BP begins, as in `ezo.ElasticZO`; what it trains is not measured.
        nodes: measure node perturbation of the `torch.nn.Linear` layers before ``bp``, and their
            parameters alone. The outputs' first dimension is the examples'.
        seed: of the vectors; the same seed gives the same numbers.

    Raises:
        ValueError: fewer than two batches, a loss that is not a scalar, or no layer to measure.

    >>> model = nn.Linear(2, 1, bias=False)
    >>> found = measure(model, lambda x: model(x).square().mean(), [torch.eye(2)] * 2)
    >>> found.curvature, found.parameters  # the loss is |w|^2 / 2
    (2.0, 2)
    """
    parameters = split(model, bp)[0]
    zo = {id(p) for p in parameters}
    linear = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m.weight) in zo]
    if nodes:
        parameters = [p for m in linear for p in m.parameters() if id(p) in zo]
    if not parameters:
        raise ValueError(
            f"expected {'a linear layer' if nodes else 'a layer'} before bp={bp!r}, got none; "
            "give a smaller bp"
        )
    total = [torch.zeros_like(p) for p in parameters]
    losses, squares, curvatures = [], [], []
    for b, batch in enumerate(batches):
        with _as_it_was(model), _calls(linear if nodes else []) as calls, torch.enable_grad():
            value = loss(batch)
            if value.numel() != 1:
                raise ValueError(
                    "expected loss(batch) to return a scalar, got shape "
                    f"{tuple(value.shape)}; take its mean()"
                )
            g = torch.autograd.grad(value, parameters, create_graph=True, materialize_grads=True)
            if nodes:
                update = _node_update(value, calls, (seed, b))
                v = [update[p] for p in parameters]
            else:
                v = [_noise("rademacher", p, (seed, b, t)) for t, p in enumerate(parameters)]
            curvatures.append(_dot(v, _hessian_times(g, parameters, v)))
        losses.append(value.item())
        squares.append(_dot(g, g))
        torch._foreach_add_(total, [x.detach() for x in g])
    if (n := len(losses)) < 2:
        raise ValueError(f"expected two batches or more, got {n}; P is the mean over pairs of them")
    mean_square, curvature = sum(squares) / n, sum(curvatures) / n
    return Signal(
        sum(losses) / n,
        (_dot(total, total) - sum(squares)) / (n * (n - 1)),
        mean_square,
        curvature / mean_square if nodes and mean_square else curvature,
        sum(p.numel() for p in parameters),
    )


def _hessian_times(
    g: Sequence[Tensor], parameters: list[nn.Parameter], v: Sequence[Tensor]
) -> Sequence[Tensor]:
    """H v, the gradient of g' v."""
    product = torch.stack([(x * y).sum() for x, y in zip(g, v, strict=True)]).sum()
    if not product.requires_grad:  # the loss is linear in the parameters
        return [torch.zeros_like(p) for p in parameters]
    return torch.autograd.grad(product, parameters, materialize_grads=True)


def _node_update(loss: Tensor, calls: list[_Call], place: tuple[int, int]) -> dict[Tensor, Tensor]:
    """One draw of mean_i (n_i' delta_i) n_i x_i', where a ReLU lets through (delta is not 0)."""
    delta = torch.autograd.grad(
        loss, [y for _, _, y in calls], retain_graph=True
    )  # (N, ...), divided by N
    noise = [_noise("gaussian", y, (*place, t)) for t, y in enumerate(delta)]
    d = torch.stack([(n * y).flatten(1).sum(1) for n, y in zip(noise, delta, strict=True)]).sum(0)
    update: dict[Tensor, Tensor] = {}
    for (layer, x, _), n, y in zip(calls, noise, delta, strict=True):
        felt = (n * (y != 0) * d.view(-1, *[1] * (n.dim() - 1))).flatten(0, -2)
        update[layer.weight] = update.get(layer.weight, 0) + felt.mT @ x.detach().flatten(0, -2)
        if layer.bias is not None:
            update[layer.bias] = update.get(layer.bias, 0) + felt.sum(0)
    return update


def _noise(kind: str, like: Tensor, place: tuple[int, int, int]) -> Tensor:
    z = draw(kind, *place, 0, 0, -(-like.numel() // GROUP), like.device)
    return z[: like.numel()].view(like.shape).to(like.dtype)


def _dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return sum((x.detach() * y.detach()).sum().item() for x, y in zip(a, b, strict=True))


@contextlib.contextmanager
def _calls(linear: list[nn.Linear]) -> Iterator[list[_Call]]:
    """Within, each call of these layers: the layer, its input and its output."""
    calls: list[_Call] = []

    def note(layer: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        calls.append((layer, inputs[0], output))

    handles = [layer.register_forward_hook(note) for layer in linear]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _as_it_was(model: nn.Module) -> Iterator[None]:
    """Within, passes may move batch norm's statistics and draw random numbers."""
    kept = [(b, b.clone()) for b in model.buffers()]
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        for buffer, value in kept:
            buffer.copy_(value)
