"""The ablation: the last k layers by backpropagation, those before frozen at initialisation."""

from ezo.catalogue import number
from ezo.methods import Parts

NAMES = ("tail-only-<k>",)


def parts(name: str) -> Parts:
    """What ``elastic-k`` would be if its ZO steps did nothing."""
    return Parts(number(name), zo=False)
