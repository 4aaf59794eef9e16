"""The loss of int8*: an integer network's cross-entropy in float64, value and gradient."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from ezo.int8.loss import LARGEST_LOSS, NAT, Loss
from ezo.int8.rounding import LARGEST

_ERROR_BITS = 7
_U_BITS = 16  # of u that round


class FloatLoss(Loss):
    """`ezo.int8.loss.Loss`, computed in floating point: what an integer loss is compared with.

    The step's face, and so its units, are those of integers: the total is rounded once, to 2^-20
    bit, and the error at random, to 2^-7.
    """

    def total(self) -> int:
        """The sum over examples, in units of 2^-20 bit."""
        return round(self._units().sum().item())

    def per_example(self) -> Tensor:
        """Each example's, (N,), int64, in units of 2^-20 bit."""
        return self._units().round().to(torch.int64)

    def error(self, u: Tensor) -> Tensor:
        """The gradient with respect to the logits, int8 in units of 2^-7; ``u`` rounds it."""
        with _one_thread():
            p = self._values().softmax(1)
        p.scatter_add_(1, self.target.unsqueeze(1), -torch.ones_like(p[:, :1]))
        at_random = (u & ((1 << _U_BITS) - 1)).to(p.dtype) / (1 << _U_BITS)  # in [0, 1)
        magnitude = (p.abs() * (1 << _ERROR_BITS) + at_random).floor().clamp(max=LARGEST)
        return (magnitude * p.sign()).to(torch.int8)

    def _units(self) -> Tensor:
        with _one_thread():
            nats = torch.nn.functional.cross_entropy(self._values(), self.target, reduction="none")
        return (nats / NAT).clamp(max=LARGEST_LOSS)

    def _values(self) -> Tensor:
        return self.logits.m.to(torch.float64) * 2.0**self.logits.e


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Within, torch works alone: it wakes its own threads for the few numbers of a loss, and they
    wait for the processor beside those of the kernels, which look out for the next product."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
