"""ElasticZO whose ZO part perturbs the outputs of linear layers: each example an experiment."""

from ezo.catalogue import number
from ezo.methods import Hyper, Parts
from ezo.nodes import Nodes

NAMES = ("elastic-node-<k>",)
HYPER = Hyper(schedule="cosine")


def parts(name: str) -> Parts:
    """``elastic-k`` with node perturbation (`ezo.nodes`)."""
    return Parts(number(name), nodes=Nodes)
