"""Training methods, one file each.

A file defines ``NAMES`` and ``parts(name) -> Parts``, what trains each layer in every number
format, or in fp32 alone where ``INTEGERS`` is false. For fp32 it may define more: ``HYPER``, its
default hyperparameters; ``FIXED``, names of those that are always so; and ``prepare(model)``, which
changes the model before the optimiser is made. Its docstring's first line describes it in ``ezo
list``. Names count BP layers.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ezo import catalogue
from ezo.methods._hyper import Hyper
from ezo.nodes import Feedback, Nodes
from ezo.optim import ElasticZO
from ezo.ranks import Ranks
from ezo.split import split

__all__ = ["Hyper", "Parts", "default", "optimizer", "reads"]

MakeBP = Callable[[list[nn.Parameter]], Optimizer]
ZO = ("lr", "eps", "clip", "queries", "noise", "weight_decay", "schedule")
BP = ("bp_lr", "momentum", "weight_decay", "schedule")
NODES, FEEDBACK = ("lr_node", "sigma"), ("eta",)


@dataclass(frozen=True)
class Parts:
    """What trains each layer, in words that hold for every number format.

    Attributes:
        bp: number of last layers that backpropagation trains, or ``all``.
        zo: whether zeroth order trains those before; else they keep their initial weights.
        nodes: how linear layers of the ZO part are perturbed at their outputs (`ezo.nodes`); None
            for their weights.
    """

    bp: int | str
    zo: bool = True
    nodes: type[Nodes] | None = None

    def reads(self, zo: tuple[str, ...], bp: tuple[str, ...]) -> frozenset[str]:
        """Of the names of each part's hyperparameters, those that change what is done."""
        has_zo, has_bp = self.zo and self.bp != "all", self.bp != 0
        both = ("bp_gradient",) if has_zo and has_bp else ()
        return frozenset((zo if has_zo else ()) + (bp if has_bp else ()) + both)


def default(name: str | None) -> Hyper:
    """A method's own fp32 hyperparameters; None is a pass of inference."""
    hyper: Hyper = getattr(name and catalogue.find("method", name), "HYPER", Hyper())
    return hyper


def reads(name: str) -> frozenset[str]:
    """Names of the fp32 hyperparameters that change what a method does."""
    file = catalogue.find("method", name)
    parts: Parts = file.parts(name)
    zo = ZO + NODES if parts.nodes else ZO
    found = parts.reads(zo + FEEDBACK if parts.nodes is Feedback else zo, BP)
    return found - {*getattr(file, "FIXED", ())}


def optimizer(
    name: str,
    model: nn.Module,
    hyper: Hyper,
    seed: int,
    make_bp: MakeBP | None = None,
    ranks: bool | Ranks = False,
    estimator: str = "central",
) -> ElasticZO:
    """A method's fp32 optimiser; layers that nothing trains are frozen.

    ``make_bp`` makes the BP part's optimiser, in place of SGD as ``hyper`` says.
    """
    file = catalogue.find("method", name)
    parts: Parts = file.parts(name)
    fixed = getattr(file, "FIXED", ())
    hyper = replace(hyper, **{of: getattr(file.HYPER, of) for of in fixed})
    if hasattr(file, "prepare"):
        file.prepare(model)
    if not parts.zo:
        for parameter in split(model, parts.bp)[0]:
            parameter.requires_grad_(False)
    nodes: Nodes | bool = False
    if parts.nodes:
        own: Any = {"eta": hyper.eta} if parts.nodes is Feedback else {}
        own |= {"sigma": hyper.sigma, "weight_decay": hyper.weight_decay}
        nodes = parts.nodes(hyper.lr_node, **own)
    sgd: Any = functools.partial(torch.optim.SGD, lr=hyper.bp_lr, momentum=hyper.momentum)
    named = ("lr", "eps", "clip", "weight_decay", "queries", "noise", "bp_gradient")
    return ElasticZO(
        model,
        parts.bp if parts.zo else "all",
        bp_optimizer=make_bp or functools.partial(sgd, weight_decay=hyper.weight_decay),
        nodes=nodes,
        estimator=estimator,
        ranks=ranks,
        seed=seed,
        **{of: getattr(hyper, of) for of in named},
    )
