"""Layers of an integer network, forward and backward on int8.

Weights are int8 with one fixed exponent a tensor; activations carry theirs along.
"""

import functools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ezo import kernels
from ezo.int8 import ops
from ezo.int8.layer import Layer as Layer
from ezo.int8.layer import Requantized, at_work, held_within, shift_within
from ezo.int8.rounding import shift
from ezo.int8.tensor import AtPoints, Int8Tensor, exponents
from ezo.kernels import NOTHING, After

_after = functools.cache(After)  # twice as fast as a new one


class Weighted(Requantized):
    """A layer whose output is a product with int8 weights, accumulated in int32.

    Attributes:
        weight: int8.
        bias: int8 or None, added to the accumulators at their exponent.
        weight_exponent, bias_exponent: fixed.
        frozen: names of those of weight and bias that no step moves, as ``requires_grad`` False
            says of floats; see ``requires_grad_``.
        node: the noise that passes meet on the output (`ezo.int8.nodes.Node`), or None.
        weight_gradient, bias_gradient: of `ops.sum_type`, the sum over the backward passes, two at
            most unless it is made int64, since they were None. Their exponents play no part in an
            update (NITI), but in that sum.

    Raises:
        SumTooLong: an accumulator of so many products could overflow int32.
    """

    padding: int | tuple[int, int, int, int] = 0
    stride, groups = (1, 1), 1

    def __init__(self, weight: Int8Tensor, bias: Int8Tensor | None) -> None:
        super().__init__()
        ops.check_length(weight.m[:1].numel(), bias is not None)
        self.weight = nn.Parameter(weight.m, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.m, requires_grad=False)
        self.weight_exponent = weight.e
        self.bias_exponent = 0 if bias is None else bias.e
        self.frozen: frozenset[str] = frozenset()
        self.weight_gradient: Int8Tensor | None = None
        self.bias_gradient: Int8Tensor | None = None
        self._error_shift = 0  # the last pass's
        self.node: Any = None

    def make_room(self, bits: int) -> None:
        """Let the weights grow to 2^bits times what they could.

        A weight's exponent is fixed, and training makes weights several times larger than they
        began: without room they end at the bound. Rounds weight and bias, to nearest, to an
        exponent higher.
        """
        with torch.no_grad():
            self.weight.copy_(shift(self.weight, bits, "nearest"))
            self.weight_exponent += bits
            if self.bias is not None:
                self.bias.copy_(shift(self.bias, bits, "nearest"))
                self.bias_exponent += bits

    def make_bias_room(self, bits: int) -> None:
        """Let the bias grow to 2^bits times what a weight can; rounds it, to nearest."""
        by = self.weight_exponent + bits - self.bias_exponent
        if self.bias is not None and by > 0:
            with torch.no_grad():
                self.bias.copy_(shift(self.bias, by, "nearest"))
            self.bias_exponent += by

    def requires_grad_(self, requires_grad: bool = True) -> "Weighted":
        """Whether steps move weight and bias, as torch's says of floats; the flag is `frozen`'s."""
        self.frozen = frozenset() if requires_grad else frozenset({"weight", "bias"})
        return self

    def _apply(self, fn: Any, recurse: bool = True) -> "Weighted":
        """As torch's, but that weights stay in row-major order, as kernels read them."""
        super()._apply(fn, recurse)
        for p in self.parameters(recurse=False):
            p.data = p.data.contiguous()
        return self

    def moving(self) -> list[bool]:
        """For each parameter, whether a step moves it."""
        own: Any = self._parameters
        return [name not in self.frozen for name, p in own.items() if p is not None]

    def held(self) -> Iterator[tuple[str, Tensor]]:
        yield from super().held()
        for gradient in (self.weight_gradient, self.bias_gradient):
            if gradient is not None:
                yield "gradients", gradient.m
        if self.node is not None and self.node.seen is not None:
            yield from (("activations", x) for x in self.node.seen if x is not None)

    @at_work
    def forward(
        self,
        x: Int8Tensor,
        relu: bool = False,
        pool: int = 1,
        over_points: bool = False,
        most: int = 0,
    ) -> Int8Tensor:
        """The product, and the ReLU and the maximum that follow it.

        While ``keeping``, maxima over points come with the points they were found at. ``most`` is
        the ReLU's own bound in real numbers, or 0 for none.
        """
        if self.keeping:
            self._kept = x.m, x.e
        e = x.e + self.weight_exponent
        fixed = not self.training
        guess = self.static_shift(x.e, e) if fixed else self.shift
        node = self.node
        if not self.requantized:
            self._note(x.e, e)
            y = Int8Tensor(kernels.accumulators(x.m, self._layer(e)), e)
            if node is not None:
                node.perturb(x, y, False, None)
            return y
        after = _after(
            relu and node is None,
            pool,
            over_points,
            over_points and (self.keeping or node is not None),
            shift_within(e, most) if most else NOTHING.most,
        )
        m, s, where = kernels.product(x.m, self._layer(e), after, guess, fixed)
        if s != self.shift:
            self.shift = s
        self._note(x.e, e + s)
        y = Int8Tensor(m, e + s)
        if node is not None:
            node.perturb(x, y, relu, where)
        if most:
            held_within(y, most)
        if where is None or not self.keeping:
            return y
        return AtPoints(m, e + s, where, x.m.shape[1])

    @at_work
    def part(
        self, x: Int8Tensor, relu: bool, pool: int, over_points: bool, most: int = 0
    ) -> tuple[Int8Tensor, int]:
        """Of some of the batch's examples, by ``shift``; and the shift that they need."""
        e = x.e + self.weight_exponent
        after = _after(relu, pool, over_points, False, shift_within(e, most))
        m, need = kernels.part(x.m, self._layer(e), after, self.shift)
        self._note(x.e, e + self.shift)
        return held_within(Int8Tensor(m, e + self.shift), most), need

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        x, exponent = self._take()
        layer = self._layer(grad_output.e + self.weight_exponent)
        where, points = (
            (grad_output.where, grad_output.points)
            if isinstance(grad_output, AtPoints)
            else (None, 1)
        )
        weight, bias = kernels.gradients(grad_output.m, x, layer, where)
        products = points * grad_output.m.numel() // max(weight.shape[0], 1)
        room = int(ops.LONGEST_SUM // 2 < products <= ops.LONGEST_SUM)  # int64 has enough
        self.weight_gradient = _sum(self.weight_gradient, weight, grad_output.e + exponent, room)
        if bias is not None:
            self.bias_gradient = _sum(self.bias_gradient, bias, grad_output.e, room)
        if not to_input:
            return grad_output
        size = x.shape[2:] if weight.dim() == 4 else None
        m, self._error_shift = kernels.error(
            grad_output.m, layer, self._error_shift, where, points, size
        )
        return Int8Tensor(m, grad_output.e + self.weight_exponent + self._error_shift)

    def _layer(self, e: int) -> kernels.Layer:
        """For accumulators at exponent ``e``."""
        own: Any = self._parameters  # nn.Module's own search costs as much as a small layer
        left, how = self.bias_exponent - e, (self.padding, self.stride, self.groups)
        return kernels.Layer(own["weight"], own.get("bias"), left, *how)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, _ in self.named_parameters(recurse=False):
            exponent = torch.tensor(getattr(self, f"{name}_exponent"), dtype=torch.int32)
            destination[f"{prefix}{name}_exponent"] = exponent

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *how: Any) -> None:
        for name, _ in self.named_parameters(recurse=False):
            key = f"{prefix}{name}_exponent"
            if key in state_dict:
                (e,) = exponents(key, state_dict.pop(key), 1)
                setattr(self, f"{name}_exponent", e)
            elif prefix + name in state_dict:
                raise ValueError(
                    f"expected an exponent to each int8 tensor, got a state dict without {key}; "
                    "take an integer network's state_dict(), or, where this network was built as "
                    "theirs was, load ezo.checkpoint.with_exponents(state, network)"
                )
        super()._load_from_state_dict(state_dict, prefix, *how)


def _sum(old: Int8Tensor | None, new: Tensor, e: int, room: int) -> Int8Tensor:
    """A pass's gradient at exponent ``e`` and an earlier one's, in the place of both.

    The sum has the larger of their exponents, and, in int32, ``room`` bits more; what that shifts
    is rounded to nearest, halves away from zero.
    """
    if old is None:
        return Int8Tensor(new, e)
    top = max(old.e, e) + (room if old.m.dtype == torch.int32 else 0)
    return Int8Tensor(_raised(old.m, top - old.e).add_(_raised(new, top - e)), top)


def _raised(m: Tensor, s: int) -> Tensor:
    """Mantissas at an exponent ``s`` higher, in place."""
    if s == 0:
        return m
    sign = m.sign()
    s = min(s, torch.iinfo(m.dtype).bits)
    return m.abs_().bitwise_right_shift_(s - 1).add_(1).bitwise_right_shift_(1).mul_(sign)


class Linear(Weighted):
    """x W^T + b on the last dimension; the dimensions before it are examples or points."""


class Conv2d(Weighted):
    """Convolution of any kernel, stride, padding and groups; without dilation.

    Attributes:
        padding: zeros on each side; or at the top, the bottom, the left and the right.
        stride: down and across.
        groups: of whose channels each output has its share alone.
    """

    def __init__(
        self,
        weight: Int8Tensor,
        bias: Int8Tensor | None,
        padding: int | tuple[int, int, int, int] = 0,
        stride: tuple[int, int] = (1, 1),
        groups: int = 1,
    ) -> None:
        super().__init__(weight, bias)
        self.padding, self.stride, self.groups = padding, stride, groups
