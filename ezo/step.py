"""The zeroth-order step of ElasticZO (arXiv 2501.04287), in floats and integers alike.

With noise z that is drawn again whenever needed and never stored, and the perturbation e = eps z
(integers: e = z), a step with central differences and one query is

    theta <- theta + e;         loss+ = closure()
    theta <- theta - 2 e;       loss- = closure()
    g     =  (loss+ - loss-) / (2 eps)                          integers: sign(loss+ - loss-)
    theta <- theta + e - lr g z                                 one sweep
    BP:      a step along the gradient of one of these passes, or of their mean

and `step` is that for any estimator (`ezo.estimators`), number of queries and place of the BP
gradient. It knows no arithmetic: what moves is a `Perturbation`, what runs the closure a `Passes`.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from ezo.phases import phase

BP_GRADIENTS = ("mean", "plus", "minus", "last", "unperturbed")
SIDES = {"plus": 1, "minus": -1}
Losses = Mapping[int, Any]  # a query's, by the estimator's points
Difference = Callable[[Losses], Any]


class Visit(NamedTuple):
    """One pass: at theta + point e of a query, and whether BP's gradient is taken there."""

    query: int
    point: int
    bp: bool


class Course(NamedTuple):
    """The passes of a step, and how many of them take BP's gradient."""

    visits: tuple[Visit, ...]
    taken: int


class Perturbation(Protocol):
    """Noise on something that the passes compute with, each query its own."""

    def move(self, query: int, start: int, end: int) -> None:
        """From theta + ``start`` e to theta + ``end`` e; both are 1, 0 or -1."""

    def learn(self, query: int, losses: Losses, difference: Difference) -> Any:
        """The update that a query's losses call for: all that `apply` needs but the weights.

        ``difference`` is of one reading of the losses: of their mean, or of each example's.
        """

    def apply(self, update: Any, start: int) -> None:
        """Make an update, from theta + ``start`` e; every start ends in the same bits."""


class Passes(Protocol):
    """Runs the closure where the weights stand."""

    def loss(self, visit: Visit) -> Any:
        """The loss of a pass; where ``visit.bp``, its gradient is added to the BP part's."""

    def together(self, taken: list[tuple[Visit, Any]]) -> list[tuple[Visit, Any]]:
        """The losses of all ranks' passes (`ezo.ranks`), from those of this one's."""

    def finite(self, losses: list[Any]) -> Any:
        """Whether the step may learn from these: a bool, or a tensor of one that stays on its
        device. Updates are then made where it is true (``where`` of an update), in any case."""


class Found(NamedTuple):
    """What a step found, and what it did to the weights.

    Attributes:
        losses: each query's, by the estimator's points.
        theta: the loss at theta; None where no pass was there.
        finite: whether all were, a bool or a tensor of one; else nothing was updated.
        applied: the updates in the order in which they were applied, each of a query, with one
            record for each perturbation.
    """

    losses: list[dict[int, Any]]
    theta: Any
    finite: Any
    applied: list[tuple[Any, ...]]


@functools.cache
def course(points: tuple[int, ...], queries: int, bp_gradient: str | None) -> Course:
    """The passes of a step, in order; one at theta alone where ``queries`` is 0.

    Theta comes first where the estimator has a point there, and is visited once. The BP gradient,
    one of `BP_GRADIENTS`, or None where BP trains nothing, is that of the last pass, unless it is
    the mean of all; so that no other pass's activations ever lie beside it, its pass is moved to
    the end.

    >>> course((1, -1), 1, "plus").visits
    (Visit(query=0, point=-1, bp=False), Visit(query=0, point=1, bp=True))
    """
    last = max(queries - 1, 0)
    around = [(query, point) for query in range(queries) for point in points if point]
    if bp_gradient in SIDES and queries:
        around.remove((last, SIDES[bp_gradient]))
        around.append((last, SIDES[bp_gradient]))
    if bp_gradient == "unperturbed" or not queries:
        around.append((last, 0))
    elif 0 in points:
        around.insert(0, (last, 0))
    n = len(around)
    taken = {"mean": n, None: 0}.get(bp_gradient, 1)
    return Course(tuple(Visit(*at, bp=i >= n - taken) for i, at in enumerate(around)), taken)


def step(
    perturbations: Sequence[Perturbation],
    passes: Passes,
    difference: Difference,
    visits: Sequence[Visit],
) -> Found:
    """One step on the perturbed part: every pass, and the update, the mean of the queries'.

    All perturbations, of the weights and of anything else, move together. An exception, and a loss
    that is not finite, leave everything as it was.
    """
    by_query: dict[int, dict[int, Any]] = {}
    taken: list[tuple[Visit, Any]] = []
    query = stand = 0  # all stand at theta + stand e, with the e of this query

    def move(end: int) -> None:
        nonlocal stand
        if stand != end:
            with phase("perturb"):
                for perturbation in perturbations:
                    perturbation.move(query, stand, end)
            stand = end

    try:
        for visit in visits:
            if visit.query != query:
                move(0)
                query = visit.query
            move(visit.point)
            taken.append((visit, passes.loss(visit)))
        every = passes.together(taken)
        finite = passes.finite([loss for _, loss in every])
        at_theta: dict[int, Any] = {v.point: loss for v, loss in every if not v.point}
        for visit, loss in every:
            if visit.point:
                by_query.setdefault(visit.query, dict(at_theta))[visit.point] = loss
        losses = [by_query[q] for q in sorted(by_query)]
        if len(every) > len(taken):
            move(0)  # ranks stand at queries of their own
        applied = []
        if finite is not False:
            applied = [
                tuple([p.learn(q, losses[q], difference) for p in perturbations])
                for q in range(len(losses) - 1, -1, -1)  # the last first: its e is still there
            ]
            if finite is not True:
                applied = [tuple([update.where(finite) for update in of]) for of in applied]
            for updates in applied:
                with phase("update"):
                    for perturbation, update in zip(perturbations, updates, strict=True):
                        perturbation.apply(update, stand)
                stand = 0
    finally:
        move(0)
    return Found(losses, at_theta.get(0), finite, applied)


def replay(perturbations: Sequence[Perturbation], applied: Sequence[tuple[Any, ...]]) -> None:
    """Make recorded updates again, without data or passes, to the same bits."""
    for updates in applied:
        for perturbation, update in zip(perturbations, updates, strict=True):
            perturbation.apply(update, 0)
