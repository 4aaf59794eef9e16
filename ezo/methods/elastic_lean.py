"""ElasticZO whose BP part holds nothing during a pass: its gradient last, and no momentum."""

from dataclasses import replace

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, ZO, Hyper
from ezo.methods.elastic import elastic

NAMES = ("elastic-lean-<k>",)
# The rate of elastic-k's SGD, whose momentum of 0.9 takes ten times as far.
HYPER = Hyper(bp_gradient="last", momentum=0.0, bp_lr=0.1)
READS = (ZO | BP) - {"momentum"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``elastic-lean-k``: as ``elastic-k``, in the memory of full ZO.

    The BP gradient is the step's last pass's alone, and used up before the next step's first; plain
    SGD keeps no state. So neither lies beside the activations of another pass.
    """
    lean = replace(hyper, bp_gradient=HYPER.bp_gradient, momentum=HYPER.momentum)
    return elastic(number(name), model, lean, seed)
