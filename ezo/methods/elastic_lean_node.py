"""ElasticZO that holds nothing during a pass, and perturbs the outputs of linear ZO layers."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, NODES, Hyper, elastic_lean
from ezo.methods.elastic import elastic
from ezo.nodes import Nodes

NAMES = ("elastic-lean-node-<k>",)
HYPER = replace(elastic_lean.HYPER, schedule="cosine")
READS = (NODES | BP) - {"momentum"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``elastic-lean-k`` with node perturbation (`ezo.nodes`)."""
    lean = replace(hyper, bp_gradient=HYPER.bp_gradient, momentum=HYPER.momentum)
    return elastic(number(name), model, lean, seed, nodes=Nodes)
