"""Zeroth order through every layer, linear ones by their outputs: each example an experiment."""

from torch import nn
from torch.optim import Optimizer

from ezo.methods import NODES, Hyper
from ezo.methods.elastic import elastic
from ezo.nodes import Nodes

NAMES = ("full-zo-node",)
HYPER = Hyper(schedule="cosine")
READS = NODES


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """No BP layer, and no backward pass: ``full-zo`` with node perturbation (`ezo.nodes`)."""
    return elastic(0, model, hyper, seed, nodes=Nodes)
