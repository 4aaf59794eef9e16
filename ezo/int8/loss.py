"""Cross-entropy of integer logits, its value and its gradient, in integers throughout.

Two passes of a zeroth-order step give logits with different exponents; what is compared is their
loss, on one fixed-point scale in base 2. With logits a_k 2^E, in units of 2^-20 bit:

    d_k  = (max_j a_j - a_k) log2(e) 2^E           how far below the largest, at least 0
    loss = d_y + log2 sum_k 2^-d_k
    p_k  = 2^-d_k / sum_j 2^-d_j

2^-x and log2 are a shift and a table of 256 chords. Bounds on the error, tested against float64
over all exponents and extreme logits: `cross_entropy` within 8e-6 bit + 3e-10 of its value;
`cross_entropy_gradient` within 1/2048 + 4e-6 for a class that is not the target (the target's
entry is minus the sum of the others).

The value is ours, as is the gradient's exponential: NITI (arXiv 2009.13108) has no value, and
truncates d_k to whole bits, which can be wrong by a factor of two.

Index letters: n example, k class.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ezo import kernels
from ezo.int8.rounding import shift
from ezo.int8.tensor import Int8Tensor

LOSS_FRACTION_BITS = 20  # of a loss: its unit is 2^-20 bit
NAT = math.log(2) / (1 << LOSS_FRACTION_BITS)  # a loss's unit in nats, for printing
LARGEST_LOSS = 1 << 50  # of an example; beyond it (2^30 bits) losses are this one
ERROR_EXPONENT = -7  # of the logits' error
GRADIENT_BITS = 11  # of a probability, before the rounding to int8
_LOG2_E = 1549082005  # round(log2(e) 2^30)
_ONE = 1 << 30  # 1 in the tables and in sums of 2^-d
_CHORDS = 256
_CPU = torch.device("cpu")

# 2^-(j / 256) and log2(1 + j / 256) for j = 0 .. 256, in units of 2^-30
_EXP2 = tuple(round(2.0 ** (-j / _CHORDS) * _ONE) for j in range(_CHORDS + 1))
_LOG2 = tuple(round(math.log2(1 + j / _CHORDS) * _ONE) for j in range(_CHORDS + 1))


def tables(device: torch.device = _CPU) -> tuple[Tensor, Tensor]:
    """`_EXP2` and `_LOG2` on a device, from the first loss there on."""
    kept = kernels.kept()
    if device not in kept:
        kept[device] = torch.tensor(_EXP2, device=device), torch.tensor(_LOG2, device=device)
    found: tuple[Tensor, Tensor] = kept[device]
    return found


class BatchLoss:
    """The loss of a batch: what a closure returns to `ezo.int8.optim.ElasticZO`.

    Attributes:
        UNIT: of `total` and `per_example`, as people read it.
        NAME: of what people read it in.
        output: of the pass, (N, K).
    """

    UNIT, NAME = NAT, " nat"
    output: Int8Tensor

    @property
    def examples(self) -> int:
        """How many there are."""
        return len(self.output.m)

    def total(self) -> int:
        """The sum over examples; totals of any two passes compare."""
        raise NotImplementedError

    def per_example(self) -> Tensor:
        """Each example's, (N,), int64."""
        raise NotImplementedError

    def gradient(self, u: Tensor) -> Int8Tensor:
        """With respect to the output, int8, rounded by ``u``, words of its shape."""
        raise NotImplementedError

    def mean(self) -> float:
        """The mean over examples; for people."""
        return self.total() * self.UNIT / self.examples

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mean():.4f}{self.NAME}, {self.examples} examples)"


@dataclass(frozen=True, repr=False)
class Loss(BatchLoss):
    """The cross-entropy of a batch.

    Attributes:
        logits: of the pass, (N, K).
        target: (N,), classes, integers.

    Raises:
        ValueError: the target is not of one class an example.
    """

    logits: Int8Tensor
    target: Tensor

    def __post_init__(self) -> None:
        target = self.target
        if target.dtype is torch.int64 and target.shape == self.logits.m.shape[:1]:
            return
        real = target.dtype.is_floating_point or target.dtype in (torch.bool, torch.complex64)
        if real or target.shape != self.logits.m.shape[:1]:
            hot = target.shape == self.logits.m.shape
            raise ValueError(
                f"expected a class for each of {len(self.logits.m)} examples, integers of shape "
                f"({len(self.logits.m)},), got {target.dtype} of shape {tuple(target.shape)}; give "
                f"{'y.argmax(1) for one-hot labels' if hot else 'the index of each class'}"
            )
        object.__setattr__(self, "target", target.to(torch.int64))

    def total(self) -> int:
        """The sum over examples, in units of 2^-20 bit; totals of any two passes compare."""
        return kernels.loss(self.logits.m, self.logits.e, self.target)

    @property
    def output(self) -> Int8Tensor:  # type: ignore[override]
        """The logits."""
        return self.logits

    def per_example(self) -> Tensor:
        """Each example's, (N,), int64, in units of 2^-20 bit."""
        return kernels.losses(self.logits.m, self.logits.e, self.target)

    def gradient(self, u: Tensor) -> Int8Tensor:
        return Int8Tensor(self.error(u), ERROR_EXPONENT)

    def error(self, u: Tensor) -> Tensor:
        """The gradient with respect to the logits, int8 in units of 2^-7; ``u`` rounds it."""
        return kernels.loss_error(self.logits.m, self.logits.e, self.target, u)


@dataclass(frozen=True)
class RanksLoss:
    """The loss of a batch whose examples several ranks share: the sum over all of them.

    Attributes:
        sum: in units of 2^-20 bit.
        examples: of all ranks.
        unit: of the sum, as people read it.
    """

    sum: int
    examples: int
    unit: float = NAT

    def total(self) -> int:
        """The sum over examples, as of a `Loss`."""
        return self.sum

    def mean(self) -> float:
        """The mean over examples, in nats or the loss's own unit; for people."""
        return self.sum * self.unit / self.examples


def cross_entropy(logits: Tensor, exponent: int, target: Tensor) -> Tensor:
    """Each example's loss: int64, (N,), in units of 2^-20 bit (`NAT` nats), at most `LARGEST_LOSS`.

    Sums over up to 4,096 examples don't overflow.

    Args:
        logits: (N, K), integers of magnitude up to 2^31: int8 mantissas, or the last layer's int32
            accumulators, which tell apart what requantizing would make equal.
        exponent: E; a logit's value is a 2^E.
        target: (N,), int64, classes.

    >>> loss = cross_entropy(torch.tensor([[3, 3], [127, -127]]), -3, torch.tensor([0, 0]))
    >>> (loss / 2**20).tolist()  # one bit; next to nothing
    [1.0, 0.0]
    """
    d = _below_largest(logits, exponent)  # (N, K)
    total = _exp2(d).sum(1)  # (N,), at least _ONE
    own = d.gather(1, target.unsqueeze(1)).squeeze(1)
    return (own + _log2(total)).clamp(max=LARGEST_LOSS)


def cross_entropy_gradient(
    logits: Tensor, exponent: int, target: Tensor, u: Tensor | None = None
) -> Tensor:
    """The gradient of the losses' sum with respect to the logits: p - (1 at the target).

    Without ``u``, int64 in units of 2^-11, each row summing to exactly 0. With ``u``, (N, K)
    non-negative integers with random low bits, rounded by them: int8 in units of 2^-7.
    """
    e = _exp2(_below_largest(logits, exponent))
    p = torch.div(e << GRADIENT_BITS, e.sum(1, keepdim=True), rounding_mode="floor")
    p.scatter_add_(1, target.unsqueeze(1), -p.sum(1, keepdim=True))
    return p if u is None else shift(p, GRADIENT_BITS - 7, "stochastic", u)


def _below_largest(logits: Tensor, exponent: int) -> Tensor:
    """d, rounded to nearest and at most `LARGEST_LOSS`."""
    wide = logits.to(torch.int64)
    product = (wide.amax(1, keepdim=True) - wide) * _LOG2_E  # below 2^62.6, units of 2^(E-30)
    right = 30 - LOSS_FRACTION_BITS - exponent
    if right > 62:
        return torch.zeros_like(product)
    if right > 0:
        product = (product + (1 << (right - 1))) >> right
        return product.clamp(max=LARGEST_LOSS)
    left = min(-right, 50)
    return torch.where(product > LARGEST_LOSS >> left, LARGEST_LOSS, product << left)


def _exp2(d: Tensor) -> Tensor:
    """2^-d, in units of 2^-30."""
    table, _ = tables(d.device)
    fraction = d & ((1 << LOSS_FRACTION_BITS) - 1)
    rest = LOSS_FRACTION_BITS - 8
    j = fraction >> rest
    start, end = table[j], table[j + 1]
    chord = start - ((start - end) * (fraction & ((1 << rest) - 1)) >> rest)
    return chord >> (d >> LOSS_FRACTION_BITS).clamp(max=62)


def _log2(x: Tensor) -> Tensor:
    """log2 of x 2^-30, for x of 2^30 or more, in units of 2^-20 bit."""
    _, table = tables(x.device)
    whole = torch.zeros_like(x)
    for bits in (16, 8, 4, 2, 1):
        whole += bits * (x >> (whole + bits) >= _ONE)
    fraction = (x >> whole) - _ONE
    j = fraction >> 22
    start, end = table[j], table[j + 1]
    chord = start + ((end - start) * (fraction & ((1 << 22) - 1)) >> 22)
    down = 30 - LOSS_FRACTION_BITS
    return (whole << LOSS_FRACTION_BITS) + ((chord + (1 << (down - 1))) >> down)
