"""ElasticZO-INT8 (arXiv 2501.04287): one step, in integers from the input to the weights."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ezo import check, kernels
from ezo.elastic import Drawn, Elastic, runs
from ezo.int8.layers import Weighted
from ezo.int8.loss import LOSS_FRACTION_BITS, Loss
from ezo.int8.network import Network
from ezo.int8.nodes import LARGEST_RATE, NodePerturbation, Nodes, find, group_of
from ezo.int8.passes import Passes
from ezo.int8.perturb import HALF, RATE_BITS, SparseNoise
from ezo.int8.rounding import agreement, bit_width
from ezo.int8.tensor import Int8Tensor
from ezo.int8.weights import Update, WeightPerturbation
from ezo.phases import phase
from ezo.ranks import Exchange, Ranks
from ezo.step import BP_GRADIENTS, course, step

__all__ = ["BP_GRADIENTS", "ElasticZO", "Update"]

MAGNITUDES = ("sign", "absolute")
LARGEST_QUERIES = 1 << 10


class ElasticZO(Elastic):
    """Trains an integer network's first layers by zeroth order, its last by backpropagation.

    One step (`ezo.step`), with integer noise z drawn again whenever needed and never stored:

        loss+ = closure() at theta + z
        loss- = closure() at theta - z
        g     = sign(loss+ - loss-)
        ZO:   theta <- clip(theta - g z rate)      rounded at random, once (`ezo.int8.perturb`)
        BP:   W <- clip(W - PSR(grad, bits(grad) - mu))      so that |delta| <= 2^mu (NITI);
              grad is the BP part's gradient at theta + z, or where ``bp_gradient`` says

    ``magnitude="sign"`` is the paper's form. ``"absolute"``, of our own, keeps what the sign throws
    away: it scales the rate by the mean of |loss+ - loss-| over examples, in bits, as zeroth order
    in floating point does. A tie leaves the ZO weights as they were. With no ZO layer there is one
    pass, unperturbed. With ``queries`` above 1 a step draws as many z, each with two passes about
    the same theta, and each moves the weights by its share of the rate. ``fraction``, of our own
    too, gives each trained weight eight bits more, which passes don't see, so that small updates
    add up (`ezo.int8.perturb`). With ``nodes``, ours again, the ZO part's linear layers are
    perturbed at their outputs, every example with noise of its own (`ezo.int8.nodes`).

    Nothing here is a floating-point number: neither a tensor nor a scalar.

    Args:
        model: an integer network (`ezo.int8.convert.from_float`) whose ZO weights keep the noise's
            headroom.
        bp: number of last layers with weights, but frozen ones (``layer.requires_grad_(False)``),
            that BP trains; 0 is full ZO, ``"all"`` full BP.
        zo: whether ZO trains the layers before; else they stay as they are, and there is one
            pass a step.
        noise: of the ZO part.
        rate: weight units that a z of 1 moves its weight by, times 2^16; 0 to 2^16. For
            ``absolute``, per bit of difference, and up to 2^24.
        mu: bits of the largest BP update, -20 to 6; below 0 only some of the weights move.
        magnitude: ``sign`` or ``absolute``.
        largest_difference: bound on the mean difference that ``absolute`` takes, in 2^-10 bit.
        fraction: whether trained weights have a fraction, one byte each.
        queries: perturbations a step, 1 to 1024, each with the estimator's passes.
        bp_gradient: as in `ezo.ElasticZO`, with the same meaning. By default ``plus``, a pass's, as
            ``mean`` takes a backward pass for each, and holds a gradient through other passes: of
            int32 for two, and of int64 for more.
        estimator: as in `ezo.ElasticZO`.
        ranks: as in `ezo.ElasticZO`. Split by example the step has the bits of one process with the
            whole batch: the ranks agree on the shifts that its layers share.
        nodes: perturb the outputs of linear layers: True, or `ezo.int8.Nodes` for other values.
        seed: of the noise; the same seed gives the same bits.

    Attributes:
        param_groups: ``rate`` in the ZO groups (``zo=True``; that of nodes has a ``sigma``) and
            ``mu`` in the BP group can be changed between steps.
        g: the sign that the last step's last query found; None where no weight was perturbed.

    Raises:
        ValueError: an argument is out of range, or the weights leave the noise too little headroom.
    """

    KIND, UPDATE = "ezo.int8.ElasticZO", Update
    CLOSURE = "Loss(model(x), y)"
    MOST_QUERIES = LARGEST_QUERIES

    def __init__(
        self,
        model: Network,
        bp: int | str,
        *,
        zo: bool = True,
        noise: SparseNoise | None = None,
        rate: int = 1 << 12,
        mu: int = 3,
        magnitude: str = "sign",
        largest_difference: int = 1 << 10,
        fraction: bool = False,
        queries: int = 1,
        bp_gradient: str = "plus",
        estimator: str = "central",
        ranks: bool | Ranks = False,
        nodes: bool | Nodes = False,
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Network):
            raise ValueError(
                f"expected an integer network, got {type(model).__name__}; convert it with "
                "ezo.int8.from_float(model, headroom=15)"
            )
        weighted, cut = model.weighted(), model.first_layer(bp)
        if not zo and bp == 0:
            raise ValueError(
                "expected a layer to train, got bp=0 and zo=False; give bp of 1 or more"
            )
        if magnitude == "relative":
            raise ValueError(
                "expected magnitude to be sign or absolute, got 'relative', which absolute has "
                "beaten; commit 81dd19c, before 0.1.0, is the last that has it"
            )
        check.one_of("magnitude", magnitude, MAGNITUDES)
        check.integer("largest_difference", largest_difference, 1)
        self._set_up(estimator, queries, bp_gradient, seed, ranks)
        if bp_gradient == "mean" and self.exchange is not None:
            raise ValueError(
                "expected bp_gradient plus, minus, last or unperturbed with ranks, got mean, a sum "
                "of gradients with exponents of their own; give plus"
            )
        self._largest_rate = 1 << (24 if magnitude == "absolute" else RATE_BITS)
        kernels.warn_where_missing()
        self._noise = noise or SparseNoise(r_max=15, p_zero=0.5)
        with_nodes = find(model, weighted[:cut] if zo else [], nodes)
        if with_nodes and self.exchange is not None:
            self._refuse_nodes("ranks")
        self._node_layers = [(i, of) for i, of in enumerate(weighted) if of in with_nodes]
        self._zo_layers = [of for of in weighted[:cut] if zo and of not in with_nodes]
        self._bp_layers: list[Weighted] = weighted[cut:]
        zo_parameters = [p for layer in self._zo_layers for p in layer.parameters()]
        beyond = max((int(p.abs().max()) for p in zo_parameters if p.numel()), default=0)
        if beyond > self._noise.bound:
            raise ValueError(
                f"expected ZO weights of at most {self._noise.bound}, so that a perturbation of "
                f"{self._noise.r_max} is never clipped, got {beyond}; "
                f"convert with from_float(model, headroom={self._noise.r_max})"
            )
        bp_parameters = [p for layer in self._bp_layers for p in layer.parameters()]
        groups: list[dict[str, Any]] = [
            {"params": zo_parameters, "zo": True, "rate": rate, "mu": 0},
            group_of(nodes, with_nodes),
            {"params": bp_parameters, "zo": False, "rate": 0, "mu": mu},
        ]
        super().__init__([group for group in groups if group["params"]], {})
        self._refuse_ranks()
        self.g: int | None = None
        self._model = model
        self._magnitude = magnitude
        self._largest_difference = largest_difference << (LOSS_FRACTION_BITS - 10)
        if fraction:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["fraction"] = torch.full_like(p, HALF, dtype=torch.uint8)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The groups are the constructor's: ZO first, then nodes, then BP."""
        self._expect_values(param_group)
        super().add_param_group(_Group(param_group))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._refuse_other(state_dict)
        kept = state_dict["state"]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for number, p in enumerate(parameters if self.state else ()):
            f = kept.get(number, {}).get("fraction")
            if not isinstance(f, Tensor) or (f.dtype, f.shape) != (torch.uint8, p.shape):
                got = (f.dtype, tuple(f.shape)) if isinstance(f, Tensor) else type(f).__name__
                raise ValueError(
                    f"expected a fraction of uint8 and {tuple(p.shape)} for parameter {number}, "
                    f"got {got}; take the state dict of an optimiser with fraction=True"
                )
        super().load_state_dict(state_dict)
        self.param_groups = [_Group(group) for group in self.param_groups]

    def _expect_group(self, group: dict[str, Any], loaded: dict[str, Any]) -> None:
        super()._expect_group(group, loaded)
        self._expect_values(loaded)

    def _expect_values(self, group: dict[str, Any]) -> None:
        nodes = "sigma" in group
        bounds = [("rate", 0, LARGEST_RATE if nodes else self._largest_rate), ("mu", -20, 6)]
        bounds += [("sigma", 1, 63), ("sparse", 0, 3)] if nodes else []
        for name, low, high in bounds:
            check.integer(name, group.get(name), low, high)

    @torch.no_grad()
    def _step(self, closure: Callable[[], Loss]) -> Loss:
        """One step.

        Returns:
            The loss at theta where there was a pass, else at theta + z.
        """
        perturbations = self._perturbations()
        trains = any(not layer.frozen or any(layer.moving()) for layer in self._bp_layers)
        where = self._bp_gradient if trains else None
        way = course(self._points, self._queries if perturbations else 0, where)
        exchange = self.exchange
        visits = way.visits if exchange is None else exchange.mine(way.visits)
        agree = exchange.largest if exchange is not None and exchange.by_example else None
        token = agreement.set(agree)
        try:
            passes = Passes(self, closure, way)
            found = step(perturbations, passes, self._difference, visits)
            if exchange is not None and trains:
                self._sum_gradients(exchange)
            for group in self.param_groups:
                if not group["zo"]:
                    with phase("update"):
                        self._bp_step(group["mu"])
        finally:
            agreement.reset(token)
            for layer in self._bp_layers:
                layer.weight_gradient = layer.bias_gradient = None
            for _, layer in self._node_layers:
                layer.node = None
        self._steps += 1
        self.applied = found.applied
        last = found.applied[0] if found.applied else ()
        self.g = next((update.g for update in last if isinstance(update, Update)), None)
        loss: Loss = found.theta or found.losses[-1].get(1) or found.losses[-1][-1]
        return loss

    def _perturbations(self) -> list[Any]:
        return [*self._of_weights(), *self._of_nodes()]

    def _of_weights(self) -> list[WeightPerturbation]:
        zo = [group for group in self.param_groups if group["zo"] and "sigma" not in group]
        if not any([layer.frozen for layer in self._zo_layers]):
            return [WeightPerturbation(self, [(0, group["params"])], group) for group in zo]
        moves = [free for layer in self._zo_layers for free in layer.moving()]
        found = [(list(runs(group["params"], moves)), group) for group in zo]
        return [WeightPerturbation(self, some, group) for some, group in found if some]

    def drawn(self) -> Drawn:
        own = [group for group in self.param_groups if group["zo"] and "sigma" not in group]
        tensors = [p for group in own for p in group["params"]]
        free = [free for layer in self._zo_layers for free in layer.moving()]
        return Drawn(tensors, [0] * len(tensors), free, self._noise, {}, bool(self.state))

    def _of_nodes(self) -> list[NodePerturbation]:
        """Of the layers with nodes; one of which a part is frozen stays whole."""
        free = [(number, layer) for number, layer in self._node_layers if not layer.frozen]
        place = self._seed, self._steps
        return [
            NodePerturbation(free, group, place, self._queries, self.state)
            for group in self.param_groups
            if "sigma" in group and free
        ]

    def replay(self, applied: Sequence[tuple[Any, ...]]) -> None:
        if self._node_layers:
            self._refuse_nodes("a replay")
        super().replay(applied)

    def _rate(self, rate: int, difference: int, examples: int) -> int:
        """A query's share of the rate, for the difference that it found."""
        if self._magnitude == "sign":
            return rate // self._queries
        mean = min(difference // max(examples, 1), self._largest_difference)
        return min((rate * mean) >> LOSS_FRACTION_BITS, 1 << RATE_BITS) // self._queries

    def _fractions(self, parameters: list[Tensor]) -> list[Tensor] | None:
        found = [of["fraction"] for of in map(self.state.get, parameters) if of]
        return found or None

    def _bp_step(self, mu: int) -> None:
        for layer in self._bp_layers:
            for name in ("weight", "bias"):
                gradient = getattr(layer, f"{name}_gradient")
                if gradient is not None and name not in layer.frozen:
                    parameter = getattr(layer, name)
                    fraction = self.state.get(parameter, {}).get("fraction")
                    kernels.bp_update(parameter, fraction, gradient.m, mu)

    def _sum_gradients(self, exchange: Exchange) -> None:
        """The BP layers' gradients over all ranks, in 32 bits where these hold the sum."""
        places = [
            (layer, f"{name}_gradient", getattr(layer, name))
            for layer in self._bp_layers
            for name in ("weight", "bias")
            if getattr(layer, name) is not None
        ]
        own = [getattr(layer, name) for layer, name, _ in places]
        bits = exchange.largest(max([bit_width(g.m) for g in own if g is not None], default=0))
        narrow = bits + (exchange.size - 1).bit_length() < 32
        kind = torch.int32 if narrow else torch.int64
        sums = [
            torch.zeros_like(p, dtype=kind) if g is None else g.m.to(kind)
            for g, (_, _, p) in zip(own, places, strict=True)
        ]
        exchange.summed(sums, "gradients")
        for (layer, name, _), total in zip(places, sums, strict=True):
            setattr(layer, name, Int8Tensor(total, 0))

    def _settings(self) -> dict[str, Any]:
        return {
            **super()._settings(),
            "noise": repr(self._noise),
            "magnitude": self._magnitude,
            "largest_difference": self._largest_difference >> (LOSS_FRACTION_BITS - 10),
            "fraction": len(self.state) > 0,
            "nodes": [number for number, _ in self._node_layers],
        }


class _Group(dict[str, Any]):
    """A group that says what it has where a torch scheduler looks for a float's learning rate."""

    def __missing__(self, name: str) -> Any:
        if name == "lr":
            raise ValueError(
                "expected group['rate'] for ZO and group['mu'] for BP, integers, got a scheduler's "
                "'lr'; set those between steps, as ezo.precisions.int8 does"
            )
        raise KeyError(name)
