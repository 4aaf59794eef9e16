"""Zeroth order through every layer, its linear ones along a feedback that node noise teaches."""

from ezo.methods import Hyper, Parts
from ezo.nodes import Feedback

NAMES = ("full-zo-feedback",)
HYPER = Hyper(lr_node=0.01, schedule="cosine")
FIXED, INTEGERS = ("queries",), False


def parts(name: str) -> Parts:
    """``full-zo-node`` with `ezo.nodes.feedback`; the last layer's error is exact."""
    return Parts(0, nodes=Feedback)
