"""ElasticZO whose ZO part perturbs the outputs of linear layers: each example an experiment."""

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, NODES, Hyper
from ezo.methods.elastic import elastic
from ezo.nodes import Nodes

NAMES = ("elastic-node-<k>",)
HYPER = Hyper(schedule="cosine")
READS = NODES | BP | {"bp_gradient"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``elastic-k`` with node perturbation (`ezo.nodes`)."""
    return elastic(number(name), model, hyper, seed, nodes=Nodes)
