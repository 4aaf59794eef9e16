"""Zeroth order through every layer (vanilla ZO, MeZO): two forward passes, nothing stored."""

from torch import nn
from torch.optim import Optimizer

from ezo.methods import ZO, Hyper, Parts
from ezo.methods.elastic import elastic

NAMES = ("full-zo",)
HYPER = Hyper()
READS = ZO


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """No BP layer."""
    return elastic(0, model, hyper, seed)


def parts(name: str) -> Parts:
    """All layers by ZO."""
    return Parts(0)
