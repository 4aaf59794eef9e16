"""Integer training (ElasticZO-INT8, arXiv 2501.04287): tensors, layers, loss and step.

The definitions, in plain torch: `tensor`, `rounding`, `ops`, `loss`, `perturb`; what trains:
`layers`, `network`, `trace`, `convert`, `optim` (`ElasticZO`). `ezo.kernels` says which kernels
serve.
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
