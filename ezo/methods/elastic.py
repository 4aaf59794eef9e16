"""ElasticZO: the last k parametric layers by backpropagation, those before by zeroth order."""

from ezo.catalogue import number
from ezo.methods import Parts

NAMES = ("elastic-<k>",)


def parts(name: str) -> Parts:
    """The last k layers by BP, the others by ZO: two passes a step, a backward pass of the last."""
    return Parts(number(name))
