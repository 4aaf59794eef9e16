"""The ablation: the last k layers by backpropagation, those before frozen at initialisation."""

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, Hyper, Parts
from ezo.optim import ElasticZO
from ezo.split import split

NAMES = ("tail-only-<k>",)
HYPER = Hyper()
READS = BP


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """What ``elastic-k`` would be if its ZO steps did nothing."""
    frozen, _ = split(model, number(name))
    for parameter in frozen:
        parameter.requires_grad_(False)
    return ElasticZO(model, "all", bp_optimizer=hyper.sgd(), seed=seed)


def parts(name: str) -> Parts:
    """The last k layers by BP, the others not at all."""
    return Parts(number(name), zo=False)
