"""ElasticZO-INT8 (arXiv 2501.04287): one step, in integers from the input to the weights."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from ezo import kernels
from ezo.int8 import perturb
from ezo.int8.layers import Weighted
from ezo.int8.loss import LOSS_FRACTION_BITS, Loss
from ezo.int8.network import Network
from ezo.int8.perturb import HALF, RATE_BITS, SparseNoise
from ezo.int8.tensor import Int8Tensor
from ezo.optim import watched

BP_GRADIENTS = ("mean", "plus", "minus", "unperturbed")
MAGNITUDES = ("sign", "relative", "absolute")
ERROR_STREAM = 1 << 31  # the noise stream that rounds the logits' error
MINUS_STREAM = ERROR_STREAM + 1  # the same, at theta - z
ERROR_EXPONENT = -7  # of the logits' error
RELATIVE_BITS = 8  # of |loss+ - loss-| over its running mean
LARGEST_RELATIVE = 3 << RELATIVE_BITS
MEAN_BITS = 6  # the running mean is over about 2^6 queries
LARGEST_QUERIES = 1 << 10


def _checked(loss: Any) -> Loss:
    if not isinstance(loss, Loss):
        raise ValueError(
            f"expected the closure to return an ezo.int8.Loss, got {type(loss).__name__}; return "
            "Loss(model(x), y) itself, not its mean()"
        )
    return loss


class ElasticZO(Optimizer):
    """Trains an integer network's first layers by zeroth order, its last by backpropagation.

    One step, with integer noise z drawn again whenever needed and never stored:

        loss+ = closure() at theta + z
        loss- = closure() at theta - z
        g     = sign(loss+ - loss-)
        ZO:   theta <- clip(theta - g z rate)      rounded at random, once (`ezo.int8.perturb`)
        BP:   W <- clip(W - PSR(grad, bits(grad) - mu))      so that |delta| <= 2^mu (NITI);
              grad is the BP part's gradient at theta + z, or where ``bp_gradient`` says

    ``magnitude="sign"`` is the paper's form. Two of our own keep what the sign throws away:
    ``"relative"`` scales the rate by |loss+ - loss-| over its running mean, at most 3;
    ``"absolute"`` by the mean of |loss+ - loss-| over examples, in bits, as zeroth order in
    floating point does. A tie leaves the ZO weights as they were. With no ZO layer there is one
    pass, unperturbed. With ``queries`` above 1 a step draws as many z, each with two passes about
    the same theta, and each moves the weights by its share of the rate. ``fraction``, of our own
    too, gives each trained weight eight bits more, which passes don't see, so that small updates
    add up (`ezo.int8.perturb`).

    Nothing here is a floating-point number: neither a tensor nor a scalar.

    Args:
        model: an integer network (`ezo.int8.convert.from_float`) whose ZO weights keep the noise's
            headroom.
        bp: number of last layers with weights that BP trains; 0 is full ZO, ``"all"`` full BP.
        zo: whether ZO trains the layers before; else they stay as they are, and there is one
            pass a step.
        noise: of the ZO part.
        rate: weight units that a z of 1 moves its weight by, times 2^16; 0 to 2^16. For
            ``absolute``, per bit of difference, and up to 2^24.
        mu: bits of the largest BP update, -20 to 6; below 0 only some of the weights move.
        magnitude: ``sign``, ``relative`` or ``absolute``.
        largest_difference: bound on the mean difference that ``absolute`` takes, in 2^-10 bit.
        fraction: whether trained weights have a fraction, one byte each.
        queries: perturbations a step, 1 to 1024: two passes each.
        bp_gradient: where the BP gradient is taken: ``plus`` or ``minus`` for one of the last
            query's passes, ``mean`` for both, which takes a backward pass more and holds a
            gradient through the second pass, ``unperturbed`` for one more pass at theta. But for
            ``mean`` that is the step's last pass, and nothing of BP lies beside another one.
        seed: of the noise; the same seed gives the same bits.

    Attributes:
        param_groups: ``rate`` in the ZO group (``zo=True``) and ``mu`` in the BP group can be
            changed between steps.
        g: the sign that the last step's last query found; None where there is no ZO layer.

    Raises:
        ValueError: an argument is out of range, or the weights leave the noise too little headroom.
    """

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
        seed: int = 0,
    ) -> None:
        if not isinstance(model, Network):
            raise ValueError(
                f"expected an integer network, got {type(model).__name__}; convert it with "
                "ezo.int8.from_float(model, headroom=15)"
            )
        weighted = model.weighted()
        if bp == "all":
            bp = len(weighted)
        if isinstance(bp, bool) or not isinstance(bp, int) or not 0 <= bp <= len(weighted):
            raise ValueError(f"expected bp from 0 to {len(weighted)} layers or 'all', got {bp!r}")
        if not zo and bp == 0:
            raise ValueError(
                "expected a layer to train, got bp=0 and zo=False; give bp of 1 or more"
            )
        if magnitude not in MAGNITUDES:
            raise ValueError(
                f"expected magnitude to be one of {', '.join(MAGNITUDES)}, got {magnitude!r}"
            )
        if bp_gradient not in BP_GRADIENTS:
            raise ValueError(
                f"expected bp_gradient to be one of {', '.join(BP_GRADIENTS)}, got {bp_gradient!r}"
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 1 << 64:
            raise ValueError(f"expected seed to be an integer in [0, 2^64), got {seed!r}")
        if type(largest_difference) is not int or largest_difference < 1:
            raise ValueError(
                "expected largest_difference of 1 or more, in 2^-10 bit, got "
                f"{largest_difference!r}"
            )
        if type(queries) is not int or not 1 <= queries <= LARGEST_QUERIES:
            raise ValueError(
                f"expected queries to be an integer from 1 to {LARGEST_QUERIES}, got {queries!r}"
            )
        self._largest_rate = 1 << (24 if magnitude == "absolute" else RATE_BITS)
        kernels.warn_where_missing()
        self._noise = noise or SparseNoise(r_max=15, p_zero=0.5)
        cut = len(weighted) - bp
        zo_parameters = [p for layer in weighted[:cut] if zo for p in layer.parameters()]
        self._bp_layers: list[Weighted] = weighted[cut:]
        beyond = max((int(p.abs().max()) for p in zo_parameters if p.numel()), default=0)
        if beyond > self._noise.bound:
            raise ValueError(
                f"expected ZO weights of at most {self._noise.bound}, so that a perturbation of "
                f"{self._noise.r_max} is never clipped, got {beyond}; "
                f"convert with from_float(model, headroom={self._noise.r_max})"
            )
        groups: list[dict[str, Any]] = [
            {"params": zo_parameters, "zo": True, "rate": rate, "mu": 0},
            {
                "params": [p for layer in self._bp_layers for p in layer.parameters()],
                "zo": False,
                "rate": 0,
                "mu": mu,
            },
        ]
        super().__init__([group for group in groups if group["params"]], {})
        self.g: int | None = None
        self._model, self._bp = model, bp
        self._magnitude, self._seed, self._bp_gradient = magnitude, seed, bp_gradient
        self._queries = queries
        self._largest_difference = largest_difference << (LOSS_FRACTION_BITS - 10)
        if fraction:
            for group in self.param_groups:
                for p in group["params"]:
                    self.state[p]["fraction"] = torch.full_like(p, HALF, dtype=torch.uint8)
        self._steps = 0
        self._mean = 0  # of |loss+ - loss-|, in units of 2^-20 bit

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """The groups are the constructor's: ZO first, then BP."""
        for name, low, high in (("rate", 0, self._largest_rate), ("mu", -20, 6)):
            value = param_group.get(name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise ValueError(
                    f"expected {name} to be an integer from {low} to {high}, got {value!r}"
                )
        super().add_param_group(param_group)

    def step(self, closure: Callable[[], Loss]) -> Loss:  # type: ignore[override]
        """One step.

        Args:
            closure: computes the loss of the same batch whenever it is called.

        Returns:
            The loss at theta + z, or at theta where there is no ZO layer or the BP gradient is
            taken there.
        """
        return self._watched_step(closure) if watched(self) else self._step(closure)

    # As in ezo.optim: Optimizer's own wrapper costs time that shows beside a small network.
    step.hooked = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _step(self, closure: Callable[[], Loss]) -> Loss:
        zo = [group for group in self.param_groups if group["zo"]]
        try:
            if not zo:
                self.g = None
                first = self._pass(closure, "unperturbed")
            else:
                first = self._zo_step(closure, zo[0])
            for group in self.param_groups:
                if not group["zo"]:
                    self._bp_step(group["mu"])
        finally:
            for layer in self._bp_layers:
                layer.weight_gradient = layer.bias_gradient = None
        self._steps += 1
        return first

    _watched_step = Optimizer.profile_hook_step(_step)

    def _zo_step(self, closure: Callable[[], Loss], group: dict[str, Any]) -> Loss:
        parameters: list[Tensor] = group["params"]
        # The gradient's pass is the last, so that no other pass's buffers ever lie beside it.
        one = -1 if self._bp and self._bp_gradient == "plus" else 1
        unperturbed = self._bp > 0 and self._bp_gradient == "unperturbed"
        place: dict[str, Any] = {"seed": self._seed, "step": self._steps}
        moves: list[tuple[int, int]] = []  # each query's sign and rate
        stand = 0  # the weights stand at theta + stand z
        try:
            for query in range(self._queries):
                place["stream"] = query
                last = query == self._queries - 1
                losses: dict[int, Loss] = {}
                for times in (one, -one):
                    perturb.shift_(parameters, self._noise, times=times - stand, **place)
                    stand = times
                    side = "plus" if times == 1 else "minus"
                    losses[times] = self._pass(closure, side if last else "")
                if unperturbed or not last:
                    perturb.shift_(parameters, self._noise, times=-stand, **place)
                    stand = 0
                if unperturbed and last:
                    losses[0] = self._pass(closure, "unperturbed")
                difference = losses[1].total() - losses[-1].total()
                rate = self._rate(group["rate"], abs(difference), len(losses[1].target))
                moves.append(((difference > 0) - (difference < 0), rate))
            for query in reversed(range(self._queries)):  # the last's z first, to come back from
                place["stream"] = query
                perturb.update_(
                    parameters,
                    self._noise,
                    g=moves[query][0],
                    rate=moves[query][1],
                    restore=-stand,
                    fractions=self._fractions(parameters),
                    **place,
                )
                stand = 0
        finally:
            if stand:
                perturb.shift_(parameters, self._noise, times=-stand, **place)
        self.g = moves[-1][0]
        return losses[0 if unperturbed else 1]

    def _rate(self, rate: int, difference: int, examples: int) -> int:
        """A query's share of the rate, for the difference that it found."""
        if self._magnitude == "sign":
            return rate // self._queries
        if self._magnitude == "absolute":
            mean = min(difference // max(examples, 1), self._largest_difference)
            return min((rate * mean) >> LOSS_FRACTION_BITS, 1 << RATE_BITS) // self._queries
        self._mean = (
            self._mean + ((difference - self._mean) >> MEAN_BITS) if self._mean else difference
        )
        relative = (difference << RELATIVE_BITS) // max(self._mean, 1)
        whole = (rate * min(relative, LARGEST_RELATIVE)) >> RELATIVE_BITS
        return min(whole, 1 << RATE_BITS) // self._queries

    def _fractions(self, parameters: list[Tensor]) -> list[Tensor] | None:
        found = [self.state[p]["fraction"] for p in parameters if p in self.state]
        return found or None

    def _pass(self, closure: Callable[[], Loss], where: str) -> Loss:
        """A pass, and the BP layers' gradients where they are taken there.

        Args:
            closure: computes the loss.
            where: ``plus``, ``minus`` or ``unperturbed``, which always takes them; empty in a
                query before the last, which never does.
        """
        taken = where == "unperturbed" or self._bp_gradient in (where, "mean")
        if not self._bp or not where or not taken:
            return _checked(closure())
        stream = MINUS_STREAM if where == "minus" else ERROR_STREAM
        with self._keeping():
            loss = _checked(closure())
            error = loss.error(self._words(loss.logits.m, stream))
            self._model.backward(Int8Tensor(error, ERROR_EXPONENT), self._bp)
        return loss

    @contextlib.contextmanager
    def _keeping(self) -> Iterator[None]:
        self._model.keep(self._bp)
        try:
            yield
        finally:
            self._model.keep(0)

    def _words(self, like: Tensor, stream: int) -> Tensor:
        place = (self._seed, self._steps, stream)
        return kernels.words(place, like.numel(), like.device).view(like.shape)

    def _bp_step(self, mu: int) -> None:
        for layer in self._bp_layers:
            for parameter, gradient in (
                (layer.weight, layer.weight_gradient),
                (layer.bias, layer.bias_gradient),
            ):
                if parameter is not None and gradient is not None:
                    fraction = self.state.get(parameter, {}).get("fraction")
                    kernels.bp_update(parameter, fraction, gradient.m, mu)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the weights."""
        own = super().state_dict()
        return {**own, "ezo": {"seed": self._seed, "steps": self._steps, "mean": self._mean}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state dict was taken, to the same bits."""
        if "ezo" not in state_dict:
            raise ValueError(
                "expected a state dict of ezo.int8.optim.ElasticZO, got one with the keys "
                f"{', '.join(state_dict)}; load it into the optimiser that made it"
            )
        ours = state_dict["ezo"]
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "ezo"})
        self._seed, self._steps, self._mean = ours["seed"], ours["steps"], ours["mean"]
