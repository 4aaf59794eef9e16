"""Zeroth order through every layer, linear ones by their outputs: each example an experiment."""

from ezo.methods import Hyper, Parts
from ezo.nodes import Nodes

NAMES = ("full-zo-node",)
HYPER = Hyper(schedule="cosine")


def parts(name: str) -> Parts:
    """No BP layer, and no backward pass: ``full-zo`` with node perturbation (`ezo.nodes`)."""
    return Parts(0, nodes=Nodes)
