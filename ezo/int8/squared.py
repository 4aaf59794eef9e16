"""The squared error of integer outputs, its value and its gradient, in integers throughout.

With outputs a_k 2^E and targets t_k 2^F, in units of 2^-15:

    d_k  = a_k 2^E - t_k 2^F, each rounded to nearest, and held within +-32
    loss = mean_k d_k^2, in units of 2^-20
    grad = d_k                   by the batch's shift, rounded at random: 2 / K is left out

An output is rounded by 2^-16 at most, so that d_k is within 2^-15 of what it stands for, and a loss
L below 1,024 within 2^-14 sqrt(L) + 2^-20. As an update does not depend on its gradient's size
(NITI, arXiv 2009.13108), neither does it on the factor that is left out.

Index letters: n example, k output.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ezo.int8.loss import LOSS_FRACTION_BITS, BatchLoss
from ezo.int8.rounding import batch_shift, bit_width, quotient, shift
from ezo.int8.tensor import Int8Tensor

DIFFERENCE_BITS = 15  # of a difference, below 1
LARGEST_DIFFERENCE = 32 << DIFFERENCE_BITS
MOST_OUTPUTS = 1 << 20  # whose squares add up in 64 bits


@dataclass(frozen=True, repr=False)
class SquaredError(BatchLoss):
    """The squared error of a batch, in the mean over outputs.

    Attributes:
        output: of the pass, (N, K).
        target: (N, K), int8: the input, of an autoencoder.

    Raises:
        ValueError: the target has another shape, or is no `Int8Tensor`.

    >>> output = Int8Tensor(torch.tensor([[3, 1]]), 0)
    >>> SquaredError(output, Int8Tensor(torch.tensor([[2, 2]], dtype=torch.int8), -1))
    SquaredError(2.0000, 1 examples)
    """

    output: Int8Tensor
    target: Int8Tensor

    UNIT, NAME = 1 / (1 << LOSS_FRACTION_BITS), ""

    def __post_init__(self) -> None:
        if not isinstance(self.target, Int8Tensor):
            raise ValueError(
                f"expected an Int8Tensor as target, got {type(self.target).__name__}; give "
                "ezo.int8.quantize(y)"
            )
        shape = tuple(self.output.m.shape)
        if len(shape) != 2 or shape != self.target.m.shape or shape[1] > MOST_OUTPUTS:
            raise ValueError(
                f"expected a target of the output's shape, {shape}, with up to {MOST_OUTPUTS} "
                f"numbers an example, got {tuple(self.target.m.shape)}; flatten it"
            )

    def total(self) -> int:
        """The sum over examples, in units of 2^-20."""
        return int(self.per_example().sum())

    def per_example(self) -> Tensor:
        d = self._differences()
        down = 2 * DIFFERENCE_BITS - LOSS_FRACTION_BITS
        return quotient((d * d).sum(1), d.shape[1] << down)

    def gradient(self, u: Tensor) -> Int8Tensor:
        d = self._differences()
        s = batch_shift(bit_width(d))
        return Int8Tensor(shift(d, s, "stochastic", u), s - DIFFERENCE_BITS)

    def _differences(self) -> Tensor:
        """d, int64."""
        d = _fixed(self.output) - _fixed(self.target)
        return d.clamp_(-LARGEST_DIFFERENCE, LARGEST_DIFFERENCE)


def _fixed(x: Int8Tensor) -> Tensor:
    """In units of 2^-15, int64, within twice the largest difference."""
    left, most = x.e + DIFFERENCE_BITS, 2 * LARGEST_DIFFERENCE
    if left <= 0:
        return shift(x.m, -left, "nearest", wide=True).clamp_(-most, most)
    left = min(left, most.bit_length())
    bound = most >> left
    held = x.m.to(torch.int64).clamp_(-bound - 1, bound + 1)
    return (held << left).clamp_(-most, most)
