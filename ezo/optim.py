"""ElasticZO (arXiv 2501.04287) as a ``torch.optim.Optimizer``."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from ezo import perturb
from ezo.noise import NOISES
from ezo.perturb import SCRATCH_BYTES
from ezo.split import Split, split
from ezo.spsa import projected_gradient

BP_GRADIENTS = ("mean", "plus", "minus", "unperturbed")


@dataclass(frozen=True)
class Estimate:
    """What one query found: the losses at theta + eps z and theta - eps z."""

    loss_plus: float
    loss_minus: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss_plus) and math.isfinite(self.loss_minus)


class ElasticZO(Optimizer):
    """Trains a model's first parameters by zeroth order, its last by backpropagation.

    One step, with noise z drawn again whenever needed and never stored:

        loss+ = closure() at theta + eps z
        loss- = closure() at theta - eps z
        g     = clip((loss+ - loss-) / (2 eps))
        ZO:   theta <- theta - lr (g z + weight_decay theta)
        BP:   a step of ``bp_optimizer`` on the gradient, by default the mean of the two passes'

    The closure computes the loss and returns it; unlike LBFGS's it leaves ``backward`` to the step,
    which is what lets the same closure serve every split. During the passes the ZO parameters
    don't require gradients, so autograd keeps activations from the first BP parameter on, and none
    at all with no BP parameter. With no ZO parameter the step is ``bp_optimizer``'s own, bit for
    bit.

    Every pass of a step draws the same random numbers from torch's generators (so dropout's mask
    is the same in all), which afterwards stand as after one forward pass. Batch norm normalises by
    the batch in every pass; its running statistics are updated by the step's first pass alone, at
    theta + eps z (at theta with ``unperturbed``), as often as in ordinary training.

    A loss that is not finite leaves every parameter as it was, and counts as a step. An exception
    from the closure does so too, is passed on, and counts as none. (The first step of all may
    change a float32 weight by 2^-23: onto the grid that makes undoing exact, see `ezo.perturb`.)

    Args:
        model: the module to train. Parameters that don't require a gradient stay as they are.
        bp: where BP begins: the number of last parametric layers, the name of a submodule or
            parameter, the parameters themselves, or ``"all"`` (`ezo.split.split`).
        lr: learning rate of the ZO part.
        eps: size of the perturbation.
        bp_optimizer: makes the BP part's optimiser from a list of its parameters; by default
            SGD with learning rate 0.01 and momentum 0.9.
        clip: bound on |g|, or None.
        weight_decay: decoupled from g, for the ZO part.
        queries: perturbations per step; the update is their mean. Each costs two passes.
        noise: ``gaussian``, ``rademacher`` or ``uniform``, of variance 1.
        bp_gradient: where the BP gradient is taken: ``mean`` of the passes at theta + eps z and
            theta - eps z, ``plus`` or ``minus`` for one of them, ``unperturbed`` for one more pass
            at theta. The paper leaves it open.
        seed: of the noise; the same seed gives the same bits.
        zo_groups: parameter groups for the ZO part, in place of one group of all: dicts with
            ``params`` and any of ``lr``, ``eps``, ``clip``, ``weight_decay``.
        scratch_bytes: bound on memory for noise outside the compiled path (`ezo.perturb.shift_`).

    Attributes:
        param_groups: the ZO groups (those with ``zo=True``), then ``bp_optimizer``'s own, so that a
            learning-rate scheduler drives both.
        bp_optimizer: the BP part's optimiser, or None.
        estimates: the last step's losses, an `Estimate` for each query; empty with no ZO part.

    Raises:
        ValueError: an argument is out of its range, or the split names nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = ElasticZO(model, bp=1, lr=1e-3, eps=1e-3)
        >>> x, y = torch.ones(3, 4), torch.tensor([0, 1, 1])
        >>> loss = optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
    """

    def __init__(
        self,
        model: nn.Module,
        bp: Split,
        lr: float = 1e-4,
        eps: float = 1e-3,
        bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
        *,
        clip: float | None = None,
        weight_decay: float = 0.0,
        queries: int = 1,
        noise: str = "gaussian",
        bp_gradient: str = "mean",
        seed: int = 0,
        zo_groups: Sequence[dict[str, Any]] | None = None,
        scratch_bytes: int = SCRATCH_BYTES,
    ) -> None:
        _expect(
            "queries", queries, isinstance(queries, int) and queries >= 1, "an integer of 1 or more"
        )
        _expect("noise", noise, noise in NOISES, f"one of {', '.join(NOISES)}")
        _expect(
            "bp_gradient",
            bp_gradient,
            bp_gradient in BP_GRADIENTS,
            f"one of {', '.join(BP_GRADIENTS)}",
        )
        _expect("seed", seed, 0 <= seed < 1 << 64, "an integer in [0, 2^64)")
        zo, bp_parameters = split(model, bp)
        groups = _zo_groups(zo, zo_groups)
        self.bp_optimizer: Optimizer | None = None
        defaults = {"lr": lr, "eps": eps, "clip": clip, "weight_decay": weight_decay, "zo": True}
        super().__init__(groups, defaults)
        if bp_parameters:
            make = bp_optimizer or functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
            self.bp_optimizer = make(bp_parameters)
            self.param_groups += self.bp_optimizer.param_groups
        self.estimates: list[Estimate] = []
        self._model = model
        self._norms = [m for m in model.modules() if isinstance(m, _NormBase)]
        self._queries, self._noise, self._bp_gradient = queries, noise, bp_gradient
        self._seed, self._scratch_bytes = seed, scratch_bytes
        self._steps = 0
        self._stepping = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a ZO group. Keys as in ``zo_groups``."""
        for name, value, holds, expected in (
            ("lr", param_group.get("lr", self.defaults["lr"]), lambda v: v >= 0, "0 or more"),
            ("eps", param_group.get("eps", self.defaults["eps"]), lambda v: v > 0, "above 0"),
            (
                "clip",
                param_group.get("clip", self.defaults["clip"]),
                lambda v: v is None or v > 0,
                "above 0, or None",
            ),
            (
                "weight_decay",
                param_group.get("weight_decay", self.defaults["weight_decay"]),
                lambda v: v >= 0,
                "0 or more",
            ),
        ):
            _expect(name, value, holds(value), expected)
        super().add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the BP gradients. Within a step it does nothing, so a closure may call it."""
        if not self._stepping and self.bp_optimizer is not None:
            self.bp_optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor]) -> Tensor:  # type: ignore[override]
        """One step. The BP parameters' gradients are the step's own, and stay until the next.

        Args:
            closure: computes the loss, a scalar, on the same batch whenever it is called.

        Returns:
            The loss, detached: the mean of the passes at theta +- eps z, or the loss at theta
            where that was computed.
        """
        if closure is None:
            raise ValueError(
                "expected a closure that returns the loss, got None; "
                "call step(lambda: loss_function(model(x), y))"
            )
        self.zero_grad()
        with self._passes(closure) as loss_at:
            if self._zo_groups():
                loss, finite = self._zo_step(loss_at)
            else:
                self.estimates = []
                loss = loss_at(1.0)
                finite = bool(torch.isfinite(loss))
        if self.bp_optimizer is not None and finite:
            self.bp_optimizer.step()
        self._steps += 1
        return loss

    def _zo_step(self, loss_at: Callable[[float], Tensor]) -> tuple[Tensor, bool]:
        """The ZO part: every pass and the update. Returns the loss, and whether it was finite.

        ``loss_at(weight)`` is a pass that adds ``weight`` times its gradient to the BP gradient.
        """
        q, where = self._queries, self._bp_gradient
        weight_plus = {"mean": 0.5 / q, "plus": 1 / q}.get(where, 0.0)
        weight_minus = {"mean": 0.5 / q, "minus": 1 / q}.get(where, 0.0)
        has_bp = self.bp_optimizer is not None
        losses = [loss_at(1.0)] if where == "unperturbed" and has_bp else []
        estimates, passes = [], []
        for query in range(q):
            times = 0.0  # the parameters stand at theta + times eps z
            try:
                times = self._shift(query, times, 1.0)
                plus = loss_at(weight_plus)
                times = self._shift(query, times, -1.0)
                minus = loss_at(weight_minus)
                estimates.append(Estimate(plus.item(), minus.item()))
                passes += [plus, minus]
                if q == 1 and estimates[0].finite and all(torch.isfinite(x) for x in losses):
                    times = self._update(0, estimates, restore=True)
            finally:
                if times != 0.0:
                    self._shift(query, times, 0.0)
        self.estimates = estimates
        finite = all(e.finite for e in estimates) and all(bool(torch.isfinite(x)) for x in losses)
        if q > 1 and finite:
            for query in range(q):
                self._update(query, estimates, restore=False)
        losses = losses or passes
        return torch.stack(losses).mean(), finite

    def _shift(self, query: int, now: float, then: float) -> float:
        """Move the ZO parameters from theta + now eps z to theta + then eps z; return ``then``."""
        for first, group in self._zo_groups():
            perturb.shift_(
                group["params"],
                eps=group["eps"],
                times=then - now,
                first_tensor=first,
                **self._place(query),
            )
        return then

    def _update(self, query: int, estimates: list[Estimate], restore: bool) -> float:
        """theta <- theta - lr g z / queries; query 0 decays too. Returns 0: not shifted."""
        losses = estimates[query]
        for first, group in self._zo_groups():
            g = projected_gradient(losses.loss_plus, losses.loss_minus, group["eps"], group["clip"])
            perturb.update_(
                group["params"],
                eps=group["eps"],
                rate=float(group["lr"]) * g / self._queries,
                decay=float(group["lr"]) * group["weight_decay"] if query == 0 else 0.0,
                restore=restore,
                first_tensor=first,
                **self._place(query),
            )
        return 0.0

    def _place(self, query: int) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "step": self._steps,
            "stream": query,
            "noise": self._noise,
            "scratch_bytes": self._scratch_bytes,
        }

    def _zo_groups(self) -> list[tuple[int, dict[str, Any]]]:
        """The ZO groups that hold parameters, each with its first tensor's number in the stream."""
        found, first = [], 0
        for group in self.param_groups:
            if group.get("zo", False) and group["params"]:
                found.append((first, group))
                first += len(group["params"])
        return found

    @contextlib.contextmanager
    def _passes(self, closure: Callable[[], Tensor]) -> Iterator[Callable[[float], Tensor]]:
        """Gives the function that runs a pass; afterwards the model is as it was."""
        zo = [p for _, group in self._zo_groups() for p in group["params"]]
        bp = [p for g in self.param_groups if not g.get("zo", False) for p in g["params"]]
        required = [p for p in zo if p.requires_grad]
        norms = (
            [
                (m, m.running_mean, m.running_var)
                for m in self._norms
                if m.training and m.track_running_stats
            ]
            if zo
            else []
        )
        random_state = _RandomState(self._model) if zo else None
        first = True

        def loss_at(weight: float) -> Tensor:
            nonlocal first
            if not first and random_state is not None:
                random_state.restore()
            loss = _evaluate(closure, weight if bp else 0.0, bp)
            if first:
                first = False
                for m, _, _ in norms:  # one update of the running statistics a step
                    m.track_running_stats = False
                    m.running_mean = m.running_var = None  # instance norm heeds nothing else
            return loss

        self._stepping = True
        for p in required:
            p.requires_grad_(False)
        try:
            yield loss_at
        finally:
            self._stepping = False
            for p in required:
                p.requires_grad_(True)
            for m, mean, variance in norms:
                m.track_running_stats = True
                m.running_mean, m.running_var = mean, variance

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the parameters; see ``load_state_dict``."""
        own = super().state_dict()
        bp = None if self.bp_optimizer is None else self.bp_optimizer.state_dict()
        return {**own, "ezo": {"seed": self._seed, "steps": self._steps, "bp": bp}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state dict was taken, to the same bits.

        Raises:
            ValueError: it is from another kind of optimiser, or from another split.
        """
        if "ezo" not in state_dict:
            raise ValueError(
                "expected a state dict of ElasticZO, got one with the keys "
                f"{', '.join(state_dict)}; load it into the optimiser that made it"
            )
        ours = state_dict["ezo"]
        if (ours["bp"] is None) != (self.bp_optimizer is None):
            raise ValueError(
                "expected a state dict of the same split, got one where BP trains "
                f"{'nothing' if ours['bp'] is None else 'something'}; give the same bp"
            )
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "ezo"})
        if self.bp_optimizer is not None:
            self.bp_optimizer.load_state_dict(ours["bp"])
            zo = [group for group in self.param_groups if group.get("zo", False)]
            self.param_groups = zo + self.bp_optimizer.param_groups
        self._seed, self._steps = ours["seed"], ours["steps"]


class _RandomState:
    """The state of torch's generators that a forward pass of the model may draw from."""

    def __init__(self, model: nn.Module) -> None:
        self.cpu = torch.get_rng_state()
        devices = set()
        if torch.cuda.is_initialized():
            devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self.cuda = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        torch.set_rng_state(self.cpu)
        for device, state in self.cuda:
            torch.cuda.set_rng_state(state, device)


def _evaluate(closure: Callable[[], Tensor], weight: float, bp: list[nn.Parameter]) -> Tensor:
    """The closure's loss, detached; ``weight`` times its gradient is added to the parameters'."""
    gradients = [p.grad for p in bp]
    try:
        with torch.set_grad_enabled(weight != 0.0):
            loss = torch.as_tensor(closure())
        for p, gradient in zip(bp, gradients, strict=True):
            p.grad = gradient  # the closure may have cleared what an earlier pass left
        if loss.numel() != 1:
            raise ValueError(
                "expected the closure to return a scalar loss, got shape "
                f"{tuple(loss.shape)}; reduce it, for example with mean()"
            )
        if weight != 0.0:
            loss.backward(torch.full_like(loss, weight))
    except RuntimeError as error:
        if "backward through the graph a second time" in str(
            error
        ) or "does not require grad" in str(error):
            raise RuntimeError(
                "the closure must compute the loss from the model, return it, and leave "
                "backward() to step()"
            ) from error
        raise
    return loss.detach()


def _zo_groups(
    zo: list[nn.Parameter], zo_groups: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    if zo_groups is None:
        return [{"params": zo}]
    given = []
    for group in zo_groups:
        params = group["params"]
        given.append({**group, "params": [params] if isinstance(params, Tensor) else list(params)})
    listed = {id(p) for group in given for p in group["params"]}
    if listed != {id(p) for p in zo}:
        raise ValueError(
            f"expected zo_groups to hold each of the {len(zo)} ZO parameters once, got "
            f"{len(listed)} parameters; move the missing ones in or the others out"
        )
    return given


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"expected {name} to be {expected}, got {value!r}")
