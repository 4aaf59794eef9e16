"""ElasticZO whose linear ZO layers learn along a feedback that node noise teaches."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, NODES, Hyper
from ezo.methods.elastic import elastic
from ezo.nodes import Feedback

NAMES = ("elastic-feedback-<k>",)
HYPER = Hyper(lr_node=0.01, schedule="cosine")
READS = (NODES | BP | {"bp_gradient"}) - {"queries"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``elastic-node-k`` with learned feedback (`ezo.nodes.feedback`)."""
    return elastic(number(name), model, replace(hyper, queries=1), seed, nodes=Feedback)
