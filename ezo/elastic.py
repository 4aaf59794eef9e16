"""What the optimisers of both arithmetics share: arguments, states, replay, profilers' hooks."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim import optimizer as _optimizer

from ezo import catalogue, check
from ezo.ranks import Ranks, exchange_of
from ezo.step import BP_GRADIENTS, SIDES, Perturbation, replay

P = TypeVar("P", bound=Tensor)
MOST_STEPS = (1 << 32) - 1  # that the noise stream tells apart


class Drawn(NamedTuple):
    """What the noise of an optimiser's next step moves, in the order of the noise stream.

    Fields:
        tensors: the weights, frozen ones too: the t-th is tensor t of the stream.
        groups: of each, the number of its group in an update.
        free: of each, whether it moves.
        noise: its distribution, as the arithmetic names it.
        held: the row of a tensor that stays, by tensor.
        fraction: whether updates are kept finer than the weights.
    """

    tensors: list[Tensor]
    groups: list[int]
    free: list[bool]
    noise: Any
    held: dict[Tensor, int]
    fraction: bool


class Elastic(Optimizer):
    """An optimiser whose step is `ezo.step.step`.

    A subclass has ``_step(closure)``, ``_perturbations()``, ``drawn()`` and ``_settings()``.

    Attributes:
        applied: the last step's updates of the ZO part, for `replay`: of each query, in the order
            in which they were applied, a tuple of one ``UPDATE``.
        exchange: with the other ranks (`ezo.ranks.Exchange`), or None.
    """

    KIND = ""  # names the class in state dicts
    MOST_QUERIES: int | None = None
    UPDATE: type  # of its updates
    _model: Any
    CLOSURE = ""  # an example
    _step_supports_amp_scaling = True  # GradScaler.step calls step, which says what to do

    def _set_up(
        self,
        estimator: str,
        queries: int,
        bp_gradient: str,
        seed: int,
        ranks: bool | Ranks = False,
    ) -> None:
        check.integer("queries", queries, 1, self.MOST_QUERIES)
        check.seed(seed)
        file = catalogue.find("estimator", estimator)
        known = [at for at in BP_GRADIENTS if SIDES.get(at, 0) in (0, *file.POINTS)]
        check.one_of("bp_gradient", bp_gradient, known)
        self._estimator, self._points, self._difference = estimator, file.POINTS, file.difference
        self._queries, self._bp_gradient, self._seed = int(queries), bp_gradient, int(seed)
        self._steps, self._looked = 0, False
        self.exchange = exchange_of(ranks)
        self._watch: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
        self.applied: list[tuple[Any, ...]] = []

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step. See the class."""
        if hasattr(self, "grad_scale"):  # GradScaler.step sets it, for who can unscale
            vars(self).pop("grad_scale"), vars(self).pop("found_inf", None)
            raise ValueError(_UNSCALED)
        if closure is None:
            raise ValueError(
                "expected a closure that returns the loss, got None; "
                f"call step(lambda: {self.CLOSURE})"
            )
        if not self._looked:
            return self._first_step(closure)
        with _NoScaling():
            loss = self._watched_step(closure) if _watched(self) else self._step(closure)
        if self.exchange and self._steps % self.exchange.ranks.check_steps == 0:
            self.synchronise()
        return loss

    def synchronise(self) -> None:
        """See that all ranks have the same weights; buffers of floats become their mean over ranks.

        A step does so now and then (`ezo.ranks.Ranks`). Without ranks it does nothing.

        Raises:
            RuntimeError: the weights differ.
        """
        if self.exchange is None:
            return
        averaged = [b for b in self._model.buffers() if b.is_floating_point()]
        self.exchange.summed(averaged, "checks")
        for buffer in averaged:
            buffer.div_(self.exchange.size)
        self._expect_same()

    def _expect_same(self) -> None:
        if self.exchange is not None:
            finer = [t for of in self.state.values() for t in of.values() if "fraction" in of]
            self.exchange.expect_same([*self._model.parameters(), *finer], self._steps)

    def _first_step(self, closure: Callable[[], Any]) -> Any:
        self._refuse_ranks()
        self._expect_same()
        with _NoScaling(), self._watch:
            loss = self._watched_step(closure) if _watched(self) else self._step(closure)
        self._looked = True
        return loss

    def _refuse_nodes(self, what: str) -> None:
        """For what needs to know updates without layers' inputs: ``ranks``, or a replay."""
        raise ValueError(
            f"expected noise on weights alone with {what}, got nodes, whose updates depend on "
            "every example's inputs, which would take as many bytes as gradients: leave out nodes, "
            f"or {what}"
        )

    def _refuse_ranks(self) -> None:
        """Each rank would have losses, and so ZO weights, of its own."""
        if self.exchange is not None:
            return
        ranks = _ranks()
        if ranks > 1 and any(group.get("zo") and group["params"] for group in self.param_groups):
            raise ValueError(
                f"expected one process, got torch.distributed with {ranks} ranks: each would train "
                "other ZO weights, by a loss of its own. Give ranks=True, or bp='all'"
            )

    # Optimizer would wrap `step` for profilers and hooks, at a cost that shows beside a small
    # network's passes even where there are none.
    step.hooked = True  # type: ignore[attr-defined]

    @Optimizer.profile_hook_step
    def _watched_step(self, closure: Callable[[], Any]) -> Any:
        return self._step(closure)

    def _step(self, closure: Callable[[], Any]) -> Any:
        raise NotImplementedError

    def _perturbations(self) -> Sequence[Perturbation]:
        """What a step perturbs, at the place of the next step."""
        raise NotImplementedError

    def drawn(self) -> Drawn:
        """The weights that noise moves: what a record of updates is about."""
        raise NotImplementedError

    @torch.no_grad()
    def replay(self, applied: Sequence[tuple[Any, ...]]) -> None:
        """Make recorded updates of the ZO part again, to the same bits, without data or passes.

        They are ``applied`` of an optimiser set up alike, after a step, or of several steps in a
        row. The next step is then the one after the last that was recorded. The BP part stays.

        Raises:
            ValueError: they are another arithmetic's.
        """
        other = {type(u).__module__ for of in applied for u in of if type(u) is not self.UPDATE}
        if other:
            raise ValueError(
                f"expected updates of {self.KIND}, got some of {', '.join(sorted(other))}; replay "
                "them with the optimiser that made them"
            )
        replay(self._perturbations(), applied)
        torch.autograd.graph.increment_version([p for g in self.param_groups for p in g["params"]])
        if applied:
            self._steps = applied[-1][0].step + 1

    def __getstate__(self) -> dict[str, Any]:
        """Refuses a copy, which would step its own copy of the model, out of the caller's sight."""
        raise TypeError(
            "expected a state dict to copy or pickle, got the ElasticZO itself; copy the model, "
            "make an ElasticZO for it, and load_state_dict(optimizer.state_dict()) there"
        )

    def _settings(self) -> dict[str, Any]:
        """What changes a step's bits and is no group's, by the argument that sets it."""
        return {
            "estimator": self._estimator,
            "queries": self._queries,
            "bp_gradient": self._bp_gradient,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on, but the weights; see ``load_state_dict``."""
        ours = {"kind": self.KIND, "settings": self._settings()}
        own = {"seed": self._seed, "steps": self._steps}
        return {**super().state_dict(), "ezo": {**ours, **own}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue where a state dict was taken, to the same bits.

        Raises:
            ValueError: it is from another kind of optimiser, other settings or another split;
                nothing has been loaded.
        """
        self._refuse_other(state_dict)
        super().load_state_dict({k: v for k, v in state_dict.items() if k != "ezo"})
        self._seed, self._steps = state_dict["ezo"]["seed"], state_dict["ezo"]["steps"]

    def _refuse_other(self, state: dict[str, Any]) -> None:
        ours = state.get("ezo", {})
        # Before there were kinds, one had "bp" and the other "mean".
        old = "ezo.ElasticZO" if "bp" in ours else "ezo.int8.ElasticZO"
        kind = ours.get("kind", old) if ours else f"one with the keys {', '.join(state)}"
        if kind != self.KIND:
            raise ValueError(
                f"expected a state dict of {self.KIND}, got {kind}; load it into the optimiser "
                "that made it"
            )
        found, given = (
            [("ZO" if group.get("zo") else "BP", len(group["params"])) for group in groups]
            for groups in (self.param_groups, state["param_groups"])
        )
        if found != given:
            raise ValueError(
                f"expected a state dict of the groups {_shown(found)}, got {_shown(given)}; give "
                "the same bp and zo_groups, and add the same groups in the same order. What is "
                "frozen when an optimiser is made is in no group: freeze before that in both "
                "places, or after it in both"
            )
        settings = self._settings()
        for name, value in ours.get("settings", {}).items():
            if settings.get(name) != value:
                raise ValueError(
                    f"expected a state dict of {name}={settings.get(name)!r}, got one of "
                    f"{name}={value!r}; make the optimiser with that"
                )
        for group, loaded in zip(self.param_groups, state["param_groups"], strict=True):
            self._expect_group(group, loaded)
        check.seed(ours["seed"])
        check.integer("steps", ours["steps"], 0, MOST_STEPS)

    def _expect_group(self, group: dict[str, Any], loaded: dict[str, Any]) -> None:
        """Raises:
        ValueError: a loaded group lacks a value of ours, or has one of another kind.
        """
        for name in group.keys() - {"params", "initial_lr"}:
            if name not in loaded or not (name == "clip" or _alike(group[name], loaded[name])):
                got = f"{loaded[name]!r:.40}" if name in loaded else "none"
                raise ValueError(
                    f"expected a state dict with a {name} such as {group[name]!r:.40}, got {got}; "
                    "take one from this optimiser, or make the optimiser as that one was made"
                )


def _alike(ours: Any, theirs: Any) -> bool:
    """Whether a value may stand for ours: a finite number for one, and a truth for one."""
    if isinstance(ours, (bool, str)):
        return type(theirs) is type(ours)
    if isinstance(ours, (list, tuple)):
        same = isinstance(theirs, (list, tuple)) and len(theirs) == len(ours)
        return same and all(map(_alike, ours, theirs))
    if check.finite(ours):
        return check.finite(theirs)
    return True


def runs(
    parameters: Sequence[P], moves: Sequence[bool], first: int = 0
) -> Iterator[tuple[int, list[P]]]:
    """Those that move, in runs, each with the number of its first: a frozen one keeps its own."""
    run: list[P] = []
    for t, (p, free) in enumerate(zip(parameters, moves, strict=True), first):
        if free:
            run.append(p)
        elif run:
            yield t - len(run), run
            run = []
    if run:
        yield first + len(parameters) - len(run), run


def _shown(groups: list[tuple[str, int]]) -> str:
    return ", ".join(f"{part} of {n}" for part, n in groups)


_UNSCALED = (
    "expected a loss as it is, got one scaled by a GradScaler; leave the scaler out and call "
    "optimizer.step(closure): ZO needs no scaling, and bfloat16 none for BP"
)


class _NoScaling:
    """Within, an enabled GradScaler refuses to scale: a step can't tell that from the loss."""

    def __enter__(self) -> None:
        scaler = torch.amp.GradScaler
        scale = self._scale = scaler.scale

        def refuse(self: Any, outputs: Any) -> Any:
            if self.is_enabled():
                raise ValueError(_UNSCALED)
            return scale(self, outputs)

        scaler.scale = refuse  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        torch.amp.GradScaler.scale = self._scale  # type: ignore[method-assign]


def _ranks() -> int:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return 1
    return distributed.get_world_size()


def _watched(optimizer: Optimizer) -> bool:
    """Whether a profiler or a hook wants to know of the optimiser's steps."""
    return bool(
        torch.autograd._profiler_enabled()
        or optimizer._optimizer_step_pre_hooks
        or optimizer._optimizer_step_post_hooks
        or _optimizer._global_optimizer_pre_hooks
        or _optimizer._global_optimizer_post_hooks
    )
