"""Zeroth order through every layer, its linear ones along a feedback that node noise teaches."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from ezo.methods import NODES, Hyper
from ezo.methods.elastic import elastic
from ezo.nodes import Feedback

NAMES = ("full-zo-feedback",)
HYPER = Hyper(lr_node=0.01, schedule="cosine")
READS = NODES - {"queries"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``full-zo-node`` with `ezo.nodes.feedback`; the last layer's error is exact."""
    return elastic(0, model, replace(hyper, queries=1), seed, nodes=Feedback)
