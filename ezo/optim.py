"""ElasticZO (arXiv 2501.04287) as a ``torch.optim.Optimizer``."""

import functools
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim import optimizer as _optimizer

from ezo import perturb
from ezo.noise import NOISES
from ezo.perturb import SCRATCH_BYTES
from ezo.split import Split, split
from ezo.spsa import projected_gradient

_Sweepers = list[tuple[perturb.Sweeper, dict[str, Any]]]
BP_GRADIENTS = ("mean", "plus", "minus", "last", "unperturbed")
GROUP: dict[str, tuple[Callable[[Any], Any], str]] = {  # what a ZO group may set
    "lr": (lambda v: _finite(v) and v >= 0, "a finite number of 0 or more"),
    "eps": (lambda v: _finite(v) and v > 0, "a finite number above 0"),
    "clip": (lambda v: v is None or (_finite(v) and v > 0), "a finite number above 0, or None"),
    "weight_decay": (lambda v: _finite(v) and v >= 0, "a finite number of 0 or more"),
}


@dataclass(frozen=True)
class Estimate:
    """What one query found: the losses at theta + eps z and theta - eps z."""

    loss_plus: float
    loss_minus: float

    @property
    def finite(self) -> bool:
        return math.isfinite(self.loss_plus) and math.isfinite(self.loss_minus)


def watched(optimizer: Optimizer) -> bool:
    """Whether a profiler or a hook wants to know of the optimiser's steps."""
    return bool(
        torch.autograd._profiler_enabled()
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _optimizer._global_optimizer_pre_hooks
        or _optimizer._global_optimizer_post_hooks
    )


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
    theta + eps z (at theta with no ZO parameter), as often as in ordinary training.

    A loss that is not finite leaves every parameter as it was, and counts as a step. An exception
    from the closure does so too, is passed on, and counts as none. (The first step of all may
    change a float32 weight by 2^-23: onto the grid that makes undoing exact, see `ezo.perturb`.
    ZO weights of 16 bits have no such grid, and every step's rounding moves them: a warning.)

    Args:
        model: the module to train. Parameters that don't require a gradient stay as they are.
        bp: where BP begins: the number of last parametric layers, 0 for full ZO; the name of a
            submodule or parameter, from which on BP trains all; a submodule or the parameters
            themselves, these and no others; or ``"all"``. A parametric layer is a module that owns
            a weight (of two or more dimensions), with the norms after it; layers stand in the order
            in which they were registered, as in ``model.named_parameters()`` (`ezo.split`).
        lr: learning rate of the ZO part.
        eps: size of the perturbation.
        bp_optimizer: makes the BP part's optimiser from a list of its parameters; by default
            SGD with learning rate 0.01 and momentum 0.9.
        clip: bound on |g|, or None.
        weight_decay: decoupled from g, for the ZO part.
        queries: perturbations per step; the update is their mean. Each costs two passes.
        noise: ``gaussian``, ``rademacher`` or ``uniform``, of variance 1.
        bp_gradient: where the BP gradient is taken: ``mean`` of the passes at theta + eps z and
            theta - eps z, ``plus`` or ``minus`` for one of them, in each query; ``last`` for the
            step's last pass alone, at theta - eps z of the last query; ``unperturbed`` for one more
            pass, at theta, after the others. With these two no other pass's activations ever lie
            beside the gradient. The paper leaves it open.
        seed: of the noise; the same seed gives the same bits.
        zo_groups: parameter groups for the ZO part, in place of one group of all: dicts with
            ``params`` and any of ``lr``, ``eps``, ``clip``, ``weight_decay`` (and a scheduler's
            ``initial_lr``).
        scratch_bytes: bound on memory for noise outside the compiled path (`ezo.perturb.Sweeper`).

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
        _expect("queries", queries, _whole(queries) and queries >= 1, "an integer of 1 or more")
        _expect("noise", noise, noise in NOISES, f"one of {', '.join(NOISES)}")
        _expect(
            "bp_gradient",
            bp_gradient,
            bp_gradient in BP_GRADIENTS,
            f"one of {', '.join(BP_GRADIENTS)}",
        )
        _expect("seed", seed, _whole(seed) and 0 <= seed < 1 << 64, "an integer in [0, 2^64)")
        if not isinstance(model, nn.Module):
            raise ValueError(
                f"expected model to be the module itself, got {type(model).__name__}; give the "
                "model, not its parameters: bp says which of them BP trains"
            )
        zo, bp_parameters = split(model, bp)
        if coarse := {str(p.dtype) for p in zo} - {str(dtype) for dtype in perturb.GRID}:
            warnings.warn(
                f"ZO weights of {', '.join(sorted(coarse))}: rounding moves them at every step, as "
                "a perturbation is undone exactly in float32 and float64 alone; keep such weights "
                "in float32, or expect some drift",
                stacklevel=2,
            )
        groups = _zo_groups(zo, zo_groups)
        self.bp_optimizer: Optimizer | None = None
        defaults = {"lr": lr, "eps": eps, "clip": clip, "weight_decay": weight_decay}
        _expect_group(defaults)
        super().__init__(groups, {**defaults, "zo": True})
        if bp_parameters:
            make = bp_optimizer or functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
            self.bp_optimizer = _make(make, bp_parameters)
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
        super().add_param_group(_checked(param_group))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the BP gradients. Within a step it does nothing, so a closure may call it."""
        if not self._stepping and self.bp_optimizer is not None:
            self.bp_optimizer.zero_grad(set_to_none)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor:  # type: ignore[override]
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
        return self._watched_step(closure) if watched(self) else self._step(closure)

    # Optimizer would wrap `step` for profilers and hooks, at a cost that shows beside a small
    # network's passes even where there are none.
    step.hooked = True  # type: ignore[attr-defined]

    @torch.no_grad()
    def _step(self, closure: Callable[[], Tensor]) -> Tensor:
        self.zero_grad()
        groups = self._zo_groups()
        zo = [p for _, group in groups for p in group["params"]]
        bp = [p for g in self.param_groups if not g.get("zo", False) for p in g["params"]]
        self._stepping = True
        try:
            with _Passes(closure, self._model, self._norms, zo, bp) as passes:
                if zo:
                    loss, finite = self._zo_step(passes, groups, has_bp=bool(bp))
                else:
                    self.estimates = []
                    loss = passes.loss(1.0)
                    finite = math.isfinite(loss)
        finally:
            self._stepping = False
        if self.bp_optimizer is not None and finite:
            self.bp_optimizer.step()
        self._steps += 1
        return torch.scalar_tensor(loss, dtype=passes.dtype, device=passes.device)

    _watched_step = Optimizer.profile_hook_step(_step)

    def _zo_step(
        self, passes: "_Passes", groups: list[tuple[int, dict[str, Any]]], has_bp: bool
    ) -> tuple[float, bool]:
        """The ZO part: every pass and the update. Returns the loss, and whether all were finite."""
        sweepers = [
            (
                perturb.Sweeper(
                    group["params"],
                    noise=self._noise,
                    first_tensor=first,
                    scratch_bytes=self._scratch_bytes,
                ),
                group,
            )
            for first, group in groups
        ]
        q, where = self._queries, self._bp_gradient
        weight_plus = {"mean": 0.5 / q, "plus": 1 / q}.get(where, 0.0)
        weight_minus = {"mean": 0.5 / q, "minus": 1 / q}.get(where, 0.0)
        extra = where == "unperturbed" and has_bp
        estimates: list[Estimate] = []
        finite = True
        for query in range(q):
            times = 0.0  # the parameters stand at theta + times eps z
            try:
                self._shift(sweepers, query, 1.0)
                times = 1.0
                plus = passes.loss(weight_plus)
                self._shift(sweepers, query, -2.0)
                times = -1.0
                last = where == "last" and query == q - 1
                minus = passes.loss(1.0 if last else weight_minus)
                estimates.append(Estimate(plus, minus))
                finite = finite and estimates[-1].finite
                if q == 1 and finite and not extra:
                    self._update(sweepers, 0, estimates, restore=True)
                    times = 0.0
            finally:
                if times != 0.0:
                    self._shift(sweepers, query, -times)
        losses = [x for e in estimates for x in (e.loss_plus, e.loss_minus)]
        if extra:  # so that the gradient never lies beside another pass's activations
            losses = [passes.loss(1.0)]
            finite = finite and math.isfinite(losses[0])
        self.estimates = estimates
        if finite and (q > 1 or extra):
            for query in range(q):
                self._update(sweepers, query, estimates, restore=False)
        return sum(losses) / len(losses), finite

    def _shift(self, sweepers: _Sweepers, query: int, times: float) -> None:
        """Move the ZO parameters by times eps z."""
        place = (self._seed, self._steps, query)
        for sweeper, group in sweepers:
            sweeper.shift(place, float(group["eps"]), times)

    def _update(
        self, sweepers: _Sweepers, query: int, estimates: list[Estimate], restore: bool
    ) -> None:
        """theta <- theta - lr g z / queries; query 0 decays too."""
        losses, place = estimates[query], (self._seed, self._steps, query)
        for sweeper, group in sweepers:
            lr, eps = float(group["lr"]), float(group["eps"])
            g = projected_gradient(losses.loss_plus, losses.loss_minus, eps, group["clip"])
            decay = lr * group["weight_decay"] if query == 0 else 0.0
            sweeper.update(place, eps, lr * g / self._queries, decay, restore)

    def _zo_groups(self) -> list[tuple[int, dict[str, Any]]]:
        """The ZO groups that hold parameters, each with its first tensor's number in the stream."""
        found, first = [], 0
        for group in self.param_groups:
            if group.get("zo", False) and group["params"]:
                found.append((first, group))
                first += len(group["params"])
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Refuses a copy, which would step its own copy of the model, out of the caller's sight."""
        raise TypeError(
            "expected a state dict to copy or pickle, got the ElasticZO itself; copy the model, "
            "make an ElasticZO for it, and load_state_dict(optimizer.state_dict()) there"
        )

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


class _Passes:
    """Runs a step's passes; on leaving, the model is as it was.

    Within, the ZO parameters don't require gradients, every pass draws the same random numbers,
    and only the first updates running statistics. With no ZO parameter it changes nothing.

    Attributes:
        dtype, device: of the first pass's loss.
    """

    dtype: torch.dtype
    device: torch.device

    def __init__(
        self,
        closure: Callable[[], Tensor],
        model: nn.Module,
        norms: list[_NormBase],
        zo: list[nn.Parameter],
        bp: list[nn.Parameter],
    ) -> None:
        self._closure, self._bp = closure, bp
        self._random_state = _RandomState(model) if zo else None
        self._zo = zo
        self._required = [p for p in zo if p.requires_grad]
        tracking = [m for m in norms if m.training and m.track_running_stats] if zo else []
        self._norms = [(m, m.running_mean, m.running_var) for m in tracking]
        self._first = True

    def __enter__(self) -> "_Passes":
        for p in self._required:
            p.requires_grad_(False)
        return self

    def __exit__(self, *_: object) -> None:
        if self._zo:
            torch.autograd.graph.increment_version(self._zo)
        for p in self._required:
            p.requires_grad_(True)
        for m, mean, variance in self._norms:
            m.track_running_stats = True
            m.running_mean, m.running_var = mean, variance

    def loss(self, weight: float) -> float:
        """The closure's loss; ``weight`` times its gradient is added to the BP parameters'."""
        if not self._first and self._random_state is not None:
            self._random_state.restore()
        try:
            loss = self._pass(weight if self._bp else 0.0)
        except RuntimeError as error:
            if "backward through the graph a second time" in str(
                error
            ) or "does not require grad" in str(error):
                raise RuntimeError(
                    "the closure must compute the loss from the model, return it, and leave "
                    "backward() to step()"
                ) from error
            raise
        if self._first:
            self._first = False
            self.dtype, self.device = loss.dtype, loss.device
            for m, _, _ in self._norms:  # one update of the running statistics a step
                m.track_running_stats = False
                m.running_mean = m.running_var = None  # instance norm heeds nothing else
        return loss.item()

    def _pass(self, weight: float) -> Tensor:
        if weight == 0.0:
            return self._evaluate()
        with torch.enable_grad():
            loss = self._evaluate()
        loss.backward(torch.full_like(loss, weight))
        return loss

    def _evaluate(self) -> Tensor:
        gradients = [p.grad for p in self._bp]
        loss = self._closure()
        if not isinstance(loss, Tensor):
            if torch.is_grad_enabled():
                raise ValueError(
                    "expected the closure to return the loss as a tensor, which BP takes the "
                    f"gradient of, got {type(loss).__name__}; return the loss itself, and not "
                    "loss.item()"
                )
            loss = torch.as_tensor(loss)
        for p, gradient in zip(self._bp, gradients, strict=True):
            p.grad = gradient  # the closure may have cleared what an earlier pass left
        if loss.numel() != 1:
            raise ValueError(
                "expected the closure to return a scalar loss, got shape "
                f"{tuple(loss.shape)}; reduce it, for example with mean()"
            )
        return loss


class _RandomState:
    """The state of torch's generators that a forward pass of the model may draw from."""

    def __init__(self, model: nn.Module) -> None:
        self.cpu = torch.default_generator.get_state()
        devices = set()
        if torch.cuda.is_initialized():
            devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
        self.cuda = [(device, torch.cuda.get_rng_state(device)) for device in devices]

    def restore(self) -> None:
        torch.default_generator.set_state(self.cpu)
        for device, state in self.cuda:
            torch.cuda.set_rng_state(state, device)


def _make(
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer], parameters: list[nn.Parameter]
) -> Optimizer:
    made = bp_optimizer(parameters) if callable(bp_optimizer) else None
    if not isinstance(made, Optimizer):
        got = type(bp_optimizer).__name__
        if callable(bp_optimizer):
            got = f"one that returns {type(made).__name__}"
        raise ValueError(
            "expected bp_optimizer to be a function that returns a torch optimiser of a list of "
            f"parameters, got {got}; give for example lambda parameters: "
            "torch.optim.Adam(parameters)"
        )
    return made


def _zo_groups(
    zo: list[nn.Parameter], zo_groups: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    if zo_groups is None:
        return [{"params": zo}]
    given = [_checked(group) for group in zo_groups]
    listed = {id(p) for group in given for p in group["params"]}
    if listed != {id(p) for p in zo}:
        raise ValueError(
            f"expected zo_groups to hold each of the {len(zo)} ZO parameters once, got "
            f"{len(listed)} parameters; move the missing ones in or the others out"
        )
    return given


def _checked(group: dict[str, Any]) -> dict[str, Any]:
    """A copy of a ZO group, its parameters as a list."""
    keys = set(group) if isinstance(group, dict) else {f"a {type(group).__name__}"}
    if "params" not in keys or not keys <= {"params", "initial_lr", *GROUP}:
        raise ValueError(
            f"expected a ZO group to be a dict of params and any of {', '.join(GROUP)}, got "
            f"{', '.join(sorted(map(str, keys))) or 'none'}; give these keys and no others"
        )
    _expect_group(group)
    params = group["params"]
    if isinstance(params, set):
        raise ValueError("expected params in an order, got a set, which has none; give a list")
    return {**group, "params": [params] if isinstance(params, Tensor) else list(params)}


def _expect_group(group: dict[str, Any]) -> None:
    for name, (holds, expected) in GROUP.items():
        if name in group:
            _expect(name, group[name], holds(group[name]), expected)


def _expect(name: str, value: object, holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"expected {name} to be {expected}, got {value!r}")


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _finite(value: object) -> bool:
    """Whether it is one finite number, or a tensor of one, as a learning rate may be."""
    if isinstance(value, Tensor):
        return value.numel() == 1 and bool(torch.isfinite(value))
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
