"""ElasticZO whose BP part holds nothing during a pass: its gradient last, and no momentum."""

from ezo.catalogue import number
from ezo.methods import Hyper, Parts

NAMES = ("elastic-lean-<k>",)
# The rate of elastic-k's SGD, whose momentum of 0.9 takes ten times as far.
HYPER = Hyper(bp_gradient="last", momentum=0.0, bp_lr=0.1)
FIXED, INTEGERS = ("bp_gradient", "momentum"), False


def parts(name: str) -> Parts:
    """``elastic-k`` in the memory of full ZO.

    The BP gradient is the step's last pass's alone, and used up before the next step's first; plain
    SGD keeps no state. So neither lies beside the activations of another pass.
    """
    return Parts(number(name))
