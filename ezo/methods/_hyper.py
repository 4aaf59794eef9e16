"""The hyperparameters of fp32 methods."""

from dataclasses import dataclass, field
from typing import Any


def about(default: Any, text: str, *, later: bool = False) -> Any:
    """A field of hyperparameters, with what `ezo train --help` says of it, its unit too.

    ``later``: runs were named before there was the field; its default is no part of a name.
    """
    return field(default=default, metadata={"help": text, "later": later})


@dataclass(frozen=True)
class Hyper:
    """Hyperparameters; a method reads those of its parts (`ezo.methods.reads`).

    The learning rates are those of the first step; ``schedule`` scales both from there. The
    exponential one suits ZO, whose gradient shrinks while its noise goes on to move every weight.
    """

    lr: float = about(5e-4, "ZO learning rate")
    eps: float = about(2.5e-3, "ZO perturbation, in units of a weight")
    clip: float | None = about(5.0, "bound on |g|, loss per unit of z; none for no bound")
    queries: int = about(1, "ZO perturbations a step")
    noise: str = about("gaussian", "gaussian, rademacher, uniform, gaussian-16 or rademacher-1")
    bp_gradient: str = about(
        "mean", "where the BP gradient is taken: mean, plus, minus, last or unperturbed"
    )
    bp_lr: float = about(0.01, "BP learning rate (SGD)")
    momentum: float = about(0.9, "BP momentum")
    weight_decay: float = about(0.0, "weight decay of both parts, per unit of learning rate")
    schedule: str = about(
        "exponential", "learning rates over time: exponential (to 0.03), cosine (to 0) or constant"
    )
    lr_node: float = about(3e-3, "learning rate of layers whose outputs are perturbed", later=True)
    sigma: float = about(0.1, "their perturbation, in units of an output", later=True)
    eta: float = about(0.1, "learning rate of their feedback; less for wide layers", later=True)
