"""ElasticZO that holds nothing during a pass, and perturbs the outputs of linear ZO layers."""

from dataclasses import replace

from ezo.catalogue import number
from ezo.methods import Parts, elastic_lean
from ezo.nodes import Nodes

NAMES = ("elastic-lean-node-<k>",)
HYPER = replace(elastic_lean.HYPER, schedule="cosine")
FIXED, INTEGERS = elastic_lean.FIXED, False


def parts(name: str) -> Parts:
    """``elastic-lean-k`` with node perturbation (`ezo.nodes`)."""
    return Parts(number(name), nodes=Nodes)
