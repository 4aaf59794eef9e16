"""Integer training (ElasticZO-INT8, arXiv 2501.04287): tensors, layers, loss and step.

The definitions, in plain torch: `tensor`, `rounding`, `ops`, `sums`, `loss`, `squared`,
`perturb`, `nodes`; what trains: `layer`, `layers`, `maps`, `stages`, `network`, `trace`,
`operations`, `convert`, `optim` (`ElasticZO`). `ezo.kernels` says which
kernels serve.
`float_loss` is the one module of floating-point numbers, for int8*. `ezo.precisions.int8` brings
all of it to the training loop.
"""

from ezo.int8.convert import from_float as from_float
from ezo.int8.float_loss import FloatLoss as FloatLoss
from ezo.int8.loss import Loss as Loss
from ezo.int8.nodes import Nodes as Nodes
from ezo.int8.optim import ElasticZO as ElasticZO
from ezo.int8.perturb import SparseNoise as SparseNoise
from ezo.int8.squared import SquaredError as SquaredError
from ezo.int8.tensor import Int8Tensor as Int8Tensor
from ezo.int8.tensor import quantize as quantize
from ezo.int8.tensor import quantize_at as quantize_at
