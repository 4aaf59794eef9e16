"""ElasticZO (arXiv 2501.04287) as a ``torch.optim.Optimizer``."""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import check, perturb
from ezo.buffers import Buffers
from ezo.capture import Captured, Recorder
from ezo.elastic import Drawn, Elastic
from ezo.estimate import Estimate
from ezo.groups import NODE_GROUP, checked, expect_group, made, zo_groups_of
from ezo.nodes.feedback import FeedbackPerturbation, feedback_of, loaded
from ezo.nodes.layers import Nodes, groups_of
from ezo.nodes.perturbation import NodePerturbation
from ezo.noise import NOISES
from ezo.order import Order
from ezo.passes import Passes, PassLoss
from ezo.perturb import SCRATCH_BYTES
from ezo.phases import phase
from ezo.ranks import Ranks
from ezo.split import Split, expect_whole, split
from ezo.step import Found, course, step
from ezo.stream import InStep
from ezo.unmoved import Readers
from ezo.weights import (
    Layout,
    Update,
    WeightPerturbation,
    attached,
    padding_rows,
    warn_of_drift,
)


class ElasticZO(Elastic):
    """Trains a model's first parameters by zeroth order, its last by backpropagation.

    One step (`ezo.step`), with noise z drawn again whenever needed and never stored:

        loss+ = closure() at theta + eps z
        loss- = closure() at theta - eps z
        g     = clip((loss+ - loss-) / (2 eps))
        ZO:   theta <- theta - lr (g z + weight_decay theta)
        BP:   a step of ``bp_optimizer`` on the gradient, by default the mean of the two passes'

    The closure computes the loss and returns it, a scalar or each example's (whose mean it then
    is); unlike LBFGS's it leaves ``backward`` to the step, which is what lets the same closure
    serve every split. Where a batch's activations don't fit, it yields the loss of each
    micro-batch, which is backpropagated before the next one is asked for: scalars add up, so yield
    ``loss / n``; vectors are one vector of all examples. During the passes the ZO parameters don't
    require gradients, so autograd keeps activations from the first BP parameter on, and none at
    all with no BP parameter. With no ZO parameter the step is ``bp_optimizer``'s own, bit for bit.

    Every pass of a step draws the same random numbers from torch's generators (so dropout's mask
    is the same in all), which afterwards stand as after one forward pass. Every pass begins with
    the same buffers, and what the step's first pass wrote into them stays (at theta + eps z, but
    for ``bp_gradient="plus"`` with one query; at theta with no ZO parameter): running statistics,
    codebooks and counters are updated as often as in ordinary training.

    A loss that is not finite leaves every parameter and buffer as it was, and counts as a step. An
    exception from the closure does so too, is passed on, and counts as none. (The first step of all
    may change a float32 weight by 2^-23: onto the grid that makes undoing exact, see `ezo.perturb`.
    ZO weights of 16 bits are never moved but by updates, which are rounded at random: see
    `ezo.unmoved`.)

    Losses on a device stay there. Full ZO of a model whose passes write no buffer never waits for
    the device; any other step does once.

    With ``nodes`` the ZO part's linear layers are perturbed at their outputs instead, every example
    with noise of its own (`ezo.nodes`), in the same passes. That is no part of the paper's method,
    learns far faster, and needs each example's loss from the closure.

    Args:
        model: the module to train. Parameters that don't require a gradient at a step stay as they
            are, and keep their number in the noise. One that requires none now is in no group.
        bp: where BP begins (`ezo.split`): the number of last parametric layers, 0 for full ZO; the
            name of a submodule or parameter, from which on BP trains all; a submodule or the
            parameters themselves, these and no others; or ``"all"``. A parametric layer is a module
            that owns a weight (of two or more dimensions), with the norms after it; layers stand in
            the order in which they were registered.
        lr, eps: learning rate of the ZO part; size of the perturbation.
        bp_optimizer: makes the BP part's optimiser from a list of its parameters; by default
            SGD with learning rate 0.01 and momentum 0.9.
        clip: bound on |g|, or None.
        weight_decay: decoupled from g, for the ZO part.
        queries: perturbations per step; the update is their mean. Each costs two passes.
        noise: a kind of `ezo.noise.draw`, of variance 1: ``gaussian``, ``rademacher``, ``uniform``,
            ``gaussian-16`` or ``rademacher-1``.
        bp_gradient: where the BP gradient is taken: ``mean`` of all passes of all queries; ``plus``
            or ``minus``, at theta + eps z or theta - eps z of the last query; ``last``, in the
            step's last pass; ``unperturbed``, at theta, in one more pass unless the estimator has
            one there. But for ``mean`` that pass comes last, so that no other's activations ever
            lie beside the gradient. The paper leaves it open; ``mean`` prefers no side, and costs
            integers a second backward pass, which is why they have another default.
        estimator: how a query's losses make its g: a name that ``ezo list`` shows.
        seed: of the noise; the same seed gives the same bits.
        zo_groups: parameter groups for the ZO part, in place of one group of all: dicts with
            ``params`` and any of ``lr``, ``eps``, ``clip``, ``weight_decay`` (and a scheduler's
            ``initial_lr``). With ``nodes``, of the parameters that they leave.
        ranks: train with the other ranks of ``torch.distributed`` (`ezo.ranks`): True, or a `Ranks`
            of another split. The closure is of this rank's share of the batch.
        nodes: perturb the outputs of linear layers: True, or `Nodes` for other layers or values,
            or several with layers of their own. Their groups follow the others of the ZO part.
        scratch_bytes: bound on memory for noise outside the compiled path (`ezo.perturb.Sweeper`).
        capture: record the step as a CUDA graph after its first `ezo.capture.WARM_UP_STEPS`, and
            replay it, schedules included. The closure is then run no more: it reads each batch from
            the same tensors, draws no random numbers, and its model writes no buffers. Parameters
            that are frozen stay so.

    Attributes:
        param_groups: the ZO groups (those with ``zo=True``), then ``bp_optimizer``'s own, so that a
            learning-rate scheduler drives both.
        bp_optimizer: the BP part's optimiser, or None.
        estimates: the last step's losses, an `Estimate` for each query; empty with no ZO part.
        applied: the last step's updates of the ZO part, for ``replay``: of each query, in the order
            in which they were applied, a tuple of one `Update`, and a `NodeUpdate` with ``nodes``.

    Raises:
        ValueError: an argument is out of its range, or the split names nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> optimizer = ElasticZO(model, bp=1, lr=1e-3, eps=1e-3)
        >>> x, y = torch.ones(3, 4), torch.tensor([0, 1, 1])
        >>> loss = optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
    """

    KIND, UPDATE = "ezo.ElasticZO", Update
    CLOSURE = "loss_function(model(x), y)"

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
        estimator: str = "central",
        seed: int = 0,
        zo_groups: Sequence[dict[str, Any]] | None = None,
        nodes: bool | Nodes | Sequence[Nodes] = False,
        ranks: bool | Ranks = False,
        scratch_bytes: int = SCRATCH_BYTES,
        capture: bool = False,
    ) -> None:
        self._set_up(estimator, queries, bp_gradient, seed, ranks)
        check.one_of("noise", noise, NOISES)
        expect_whole(model)
        zo, bp_parameters = split(model, bp)
        warn_of_drift(zo)
        self._watch = Order(model, zo, bp)
        self._layers, node_groups = groups_of(nodes, model, zo)
        if self._layers and self.exchange is not None:
            self._refuse_nodes("ranks")
        self._how = feedback_of(nodes, queries, self._layers)
        self._feedback: dict[int, Tensor] = {}  # by the layers' numbers
        with_nodes = {id(p) for group in node_groups for p in group["params"]}
        for group in node_groups:
            expect_group(group, NODE_GROUP)
        groups = zo_groups_of([p for p in zo if id(p) not in with_nodes], zo_groups)
        self.bp_optimizer: Optimizer | None = None
        defaults = {"lr": lr, "eps": eps, "clip": clip, "weight_decay": weight_decay}
        expect_group(defaults)
        super().__init__(groups, {**defaults, "zo": True})
        self.param_groups += node_groups
        if bp_parameters:
            make = bp_optimizer or functools.partial(torch.optim.SGD, lr=0.01, momentum=0.9)
            self.bp_optimizer = made(make, bp_parameters)
            self.param_groups += self.bp_optimizer.param_groups
        self._losses: list[dict[int, PassLoss]] = []  # the last step's
        self._model = model
        self._buffers = Buffers(model)
        self._padding = padding_rows(model)
        self._readers = Readers(model)
        self._noise = noise
        self._refuse_ranks()
        self._sweeper = functools.partial(perturb.Sweeper, noise=noise, scratch_bytes=scratch_bytes)
        self._layout: Layout | None = None  # the last step's
        self._stepping = False
        self._recorder: Recorder | None = None
        if capture:
            self._recorder = Recorder(model, [*zo, *bp_parameters], nodes, self.exchange)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a ZO group. Keys as in ``zo_groups``."""
        super().add_param_group(checked(param_group))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the BP gradients. Within a step it does nothing, so a closure may call it."""
        if not self._stepping and self.bp_optimizer is not None:
            self.bp_optimizer.zero_grad(set_to_none)

    @torch.no_grad()
    def _step(self, closure: Callable[[], Any]) -> Tensor:
        """One step. The BP parameters' gradients are the step's own, and stay until the next.

        Returns:
            The loss, detached: the mean of the passes, or the loss at theta where there was one.
        """
        run = functools.partial(self._passes_and_update, closure)
        if self._recorder is None:
            found, passes = run()
        else:
            found, passes = self._recorder.step(run, self._buffers, self.param_groups, self._steps)
        if self.bp_optimizer is not None and found.finite is not False:
            with phase("update"):
                self.bp_optimizer.step()
        self._steps += 1
        self._applied, self._finite = found.applied, found.finite
        self._losses = found.losses
        losses = [x.mean for of in found.losses for x in of.values()]
        if found.theta is not None:
            losses = [found.theta.mean]
        # one after the other: from Python 3.12 on sum() of floats rounds otherwise
        loss = functools.reduce(operator.add, losses) / len(losses)
        if isinstance(loss, Tensor):
            return loss.to(passes.dtype)
        return torch.scalar_tensor(loss, dtype=passes.dtype, device=passes.device)

    def _passes_and_update(
        self, closure: Callable[[], Any], captured: Captured | None = None
    ) -> tuple[Found, Passes]:
        """All of a step but the BP optimiser's."""
        self.zero_grad()
        perturbations = self._perturbations(captured)
        zo = [p for perturbation in perturbations for p in perturbation.parameters]
        of_bp, exchange = [g for g in self.param_groups if not g.get("zo", False)], self.exchange
        bp = [p for group in of_bp for p in group["params"] if p.requires_grad]
        where = self._bp_gradient if bp else "mean" if self._how is not None else None
        visits, taken = course(self._points, self._queries if zo else 0, where)
        weight = 1 / max(taken, 1)
        if exchange is not None:
            visits = tuple(exchange.mine(visits))
            weight /= exchange.size if exchange.by_example else 1
        decides = captured is None and bool(bp or len(perturbations) > 1 or self._buffers.any)
        self._stepping = True
        try:
            what = (self._model, self._buffers, zo, bp, weight, exchange)
            passes = Passes(closure, *what, decides=decides, captured=captured is not None)
            with passes, InStep(), attached(perturbations, passes):
                found = step(perturbations, passes, self._difference, visits)
        finally:
            self._stepping = False
        if exchange is not None and bp and found.finite:
            for p in bp:
                p.grad = torch.zeros_like(p) if p.grad is None else p.grad
            exchange.summed([p.grad for p in bp if p.grad is not None], "gradients")
        return found, passes

    @property
    def applied(self) -> list[tuple[Any, ...]]:
        """See the class. Waits for the device where the step did not."""
        if isinstance(self._finite, Tensor):
            of = self._applied if self._finite.item() else []
            self._applied = [tuple(update.read() for update in updates) for updates in of]
        elif any(isinstance(n, Tensor) for of in self._applied for g in of[0].groups for n in g):
            self._applied = [(of[0].read(), *of[1:]) for of in self._applied]
        self._finite = True
        return self._applied

    @applied.setter
    def applied(self, value: list[tuple[Any, ...]]) -> None:
        self._applied, self._finite = value, True

    @property
    def estimates(self) -> list[Estimate]:
        """The last step's losses, for each query; empty with no ZO part."""
        return [
            Estimate(*(float(of[p].mean) if p in of else None for p in (1, -1, 0)))
            for of in self._losses
        ]

    @property
    def needs_examples(self) -> bool:
        """Whether the closure has to give each example's loss, (N,)."""
        return bool(self._layers)

    def _perturbations(self, captured: Captured | None = None) -> list[Any]:
        """Of the weights, and of the nodes where there are any."""
        zo = [g for g in self.param_groups if g.get("zo", False) and g["params"]]
        groups, nodes = ([g for g in zo if ("sigma" in g) is of] for of in (False, True))
        place: tuple[int, Any] = (self._seed, self._steps)
        if captured is not None:
            groups, place = captured.groups, (self._seed, captured.step)
        if self._layout is None or not self._layout.fits(groups):
            self._layout = Layout(groups, self._sweeper)
        what = (self._layout, self._padding, self._readers, self._noise)
        weights = WeightPerturbation(groups, place, self._queries, *what)
        if not nodes:
            return [weights]
        free = [[layer for layer in of if layer.free] for of in self._layers]
        of = (free, nodes, place, self._queries, self._noise)
        if self._how is not None:
            return [weights, FeedbackPerturbation(self._model, self._how, self._feedback, *of)]
        return [weights, NodePerturbation(*of)]

    def drawn(self) -> Drawn:
        groups = [g for g in self.param_groups if g.get("zo", False) and "sigma" not in g]
        own = [group["params"] for group in groups if group["params"]]
        tensors = [p for params in own for p in params]
        numbers = [i for i, params in enumerate(own) for _ in params]
        free = [p.requires_grad for p in tensors]
        return Drawn(tensors, numbers, free, self._noise, self._padding, False)

    def replay(self, applied: Sequence[tuple[Any, ...]]) -> None:
        if self._layers:
            self._refuse_nodes("a replay")
        super().replay(applied)

    def _settings(self) -> dict[str, Any]:
        bp = None if self.bp_optimizer is None else type(self.bp_optimizer).__name__
        how = {"eta": self._how.eta, "mix": self._how.mix} if self._how is not None else {}
        return {**super()._settings(), "noise": self._noise, "bp_optimizer": bp, **how}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the weights; see ``load_state_dict``."""
        own = super().state_dict()
        bp = None if self.bp_optimizer is None else self.bp_optimizer.state_dict()
        feedback = {str(number): f for number, f in self._feedback.items()}
        return {**own, "ezo": {**own["ezo"], "bp": bp, "feedback": feedback}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        feedback = loaded(state_dict.get("ezo", {}), self._layers)
        super().load_state_dict(state_dict)
        self._feedback = feedback
        if self.bp_optimizer is not None:
            self.bp_optimizer.load_state_dict(state_dict["ezo"]["bp"])
            own = iter(self.bp_optimizer.param_groups)  # each takes its old place
            self.param_groups = [g if g.get("zo", False) else next(own) for g in self.param_groups]

    def _expect_group(self, group: dict[str, Any], loaded: dict[str, Any]) -> None:
        super()._expect_group(group, loaded)
        if group.get("zo", False):
            expect_group(loaded, NODE_GROUP)
