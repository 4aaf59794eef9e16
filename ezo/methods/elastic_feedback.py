"""ElasticZO whose linear ZO layers learn along a feedback that node noise teaches."""

from ezo.catalogue import number
from ezo.methods import Hyper, Parts
from ezo.nodes import Feedback

NAMES = ("elastic-feedback-<k>",)
HYPER = Hyper(lr_node=0.01, schedule="cosine")
FIXED, INTEGERS = ("queries",), False


def parts(name: str) -> Parts:
    """``elastic-node-k`` with learned feedback (`ezo.nodes.feedback`)."""
    return Parts(number(name), nodes=Feedback)
