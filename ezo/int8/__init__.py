"""Integer training (ElasticZO-INT8, arXiv 2501.04287): tensors, layers, loss and step.

The reference, in plain torch: `tensor`, `rounding`, `ops`, `layers`, `network`, `trace`, `convert`,
`loss`, `perturb`, `optim` (`ElasticZO`). `fast` is the compiled path on CPU, to the same bits, and
`shapes` its stand-in for `ezo.plan`.
`float_loss` is the one module of floating-point numbers, for int8*. `ezo.precisions.int8` brings
all of it to the training loop.
"""

from ezo.int8.convert import from_float
from ezo.int8.float_loss import FloatLoss
from ezo.int8.loss import Loss
from ezo.int8.optim import ElasticZO
from ezo.int8.perturb import SparseNoise
from ezo.int8.tensor import Int8Tensor, quantize, quantize_at

__all__ = [
    "ElasticZO",
    "FloatLoss",
    "Int8Tensor",
    "Loss",
    "SparseNoise",
    "from_float",
    "quantize",
    "quantize_at",
]
