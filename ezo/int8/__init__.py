"""Integer training (ElasticZO-INT8, arXiv 2501.04287): tensors, layers, loss and step.

The reference, in plain torch: `tensor`, `rounding`, `ops`, `model` (`from_float`), `loss`,
`perturb`, `optim` (`ElasticZO`). `fast` is the compiled path on CPU, to the same bits.
"""

from ezo.int8.loss import Loss
from ezo.int8.model import from_float
from ezo.int8.optim import ElasticZO
from ezo.int8.perturb import SparseNoise
from ezo.int8.tensor import Int8Tensor, quantize

__all__ = ["ElasticZO", "Int8Tensor", "Loss", "SparseNoise", "from_float", "quantize"]
