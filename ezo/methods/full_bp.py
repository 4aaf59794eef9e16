"""Backpropagation through every layer, SGD with momentum."""

from torch import nn
from torch.optim import Optimizer

from ezo.methods import BP, Hyper, Parts
from ezo.optim import ElasticZO

NAMES = ("full-bp",)
HYPER = Hyper()
READS = BP


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """No ZO layer: one forward and one backward pass a step."""
    return ElasticZO(model, "all", bp_optimizer=hyper.sgd(), seed=seed)


def parts(name: str) -> Parts:
    """All layers by BP."""
    return Parts("all")
