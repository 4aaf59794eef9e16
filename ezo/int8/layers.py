"""Layers of an integer network, forward and backward on int8.

Weights are int8 with one fixed exponent a tensor; activations carry theirs along.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ezo.int8 import fast, ops
from ezo.int8.rounding import shift
from ezo.int8.tensor import AtPoints, Int8Tensor, rescale

EVERY_PASS = frozenset(
    {"keeping", "_kept", "_shift", "_error_shift", "weight_gradient", "bias_gradient"}
)


class Layer(nn.Module):
    """One layer. While ``keeping``, forward remembers what backward needs; backward forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.keeping = False
        self._kept: Any = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EVERY_PASS:  # nn.Module's search for parameters costs as much as a small layer
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _take(self) -> Any:
        """What forward kept, once."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("expected a forward pass after keep() before backward, got none")
        return kept

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        raise NotImplementedError

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        """Errors of the output to errors of the input; adds to the weights' gradient.

        Without ``below`` nobody needs the errors of the input, and a layer with weights returns
        ``err`` as it came.
        """
        raise NotImplementedError


class Weighted(Layer):
    """A layer whose output is a product with int8 weights, summed in int32.

    Attributes:
        weight: int8.
        bias: int8 or None, added to the sums at their exponent.
        weight_exponent, bias_exponent: fixed.
        rounded: whether the output is rounded to int8; else it is the int32 sums.
        tiles: `Network.tiles`.
        weight_gradient, bias_gradient: of `ops.sum_type`, the sum over the backward passes, two at
            most unless it is made int64, since they were None. Their exponents play no part in an
            update (NITI), but in that sum.

    Raises:
        SumTooLong: a sum of so many inputs could overflow int32.
    """

    def __init__(self, weight: Int8Tensor, bias: Int8Tensor | None) -> None:
        super().__init__()
        ops.check_length(weight.m[:1].numel(), bias is not None)
        self.weight = nn.Parameter(weight.m, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.m, requires_grad=False)
        self.weight_exponent = weight.e
        self.bias_exponent = 0 if bias is None else bias.e
        self.rounded = self.tiles = True
        self.weight_gradient: Int8Tensor | None = None
        self.bias_gradient: Int8Tensor | None = None
        self._shift = self._error_shift = 0  # the last pass's, where tiles are rounded at once

    def make_room(self, bits: int) -> None:
        """Let the weights grow to 2^bits times what they could.

        A weight's exponent is fixed, and training makes weights several times larger than they
        began: without room they end at the bound. Rounds weight and bias, to nearest, to an
        exponent ``bits`` higher.
        """
        with torch.no_grad():
            self.weight.copy_(shift(self.weight, bits, "nearest"))
            self.weight_exponent += bits
            if self.bias is not None:
                self.bias.copy_(shift(self.bias, bits, "nearest"))
                self.bias_exponent += bits

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        if self.keeping:
            self._kept = x.m, x.e
        acc, e = self._product(x.m), x.e + self.weight_exponent
        if self.bias is not None:
            acc += self._along_channels(aligned(self.bias, self.bias_exponent - e))
        return rescale(acc, e) if self.rounded else Int8Tensor(acc, e)

    def fused(self, x: Int8Tensor, relu: bool, pool: int, over_points: bool) -> Int8Tensor:
        """The compiled form of forward, a ReLU and a maximum (`ezo.int8.fast`).

        While ``keeping``, maxima over points come with the points they were found at.
        """
        if self.keeping:
            self._kept = x.m, x.e
        e = x.e + self.weight_exponent
        what = (x.m, self.weight, self.bias, self.bias_exponent - e)
        sums = partial(fast.product, *what, self.padding, relu, pool, over_points)
        if not self.rounded:
            return Int8Tensor(sums()[0], e)
        if over_points and self.keeping:
            where = torch.empty((len(x.m), len(self.weight)), dtype=torch.int32)
            m, self._shift = fast.rounded(partial(sums, where=where), self._shift)
            return AtPoints(m, e + self._shift, where, x.m.shape[1])
        tiles = self.tiles and not over_points
        m, self._shift = fast.rounded(sums, self._shift if tiles else None)
        return Int8Tensor(m, e + self._shift)

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        x, exponent = self._take()
        weight, bias = self._gradients(err, x)
        points = err.points if isinstance(err, AtPoints) else 1
        products = points * err.m.numel() // max(len(self.weight), 1)
        room = int(ops.LONGEST_SUM // 2 < products <= ops.LONGEST_SUM)  # int64 has enough
        self.weight_gradient = _sum(self.weight_gradient, weight, err.e + exponent, room)
        if bias is not None:
            self.bias_gradient = _sum(self.bias_gradient, bias, err.e, room)
        return self._below(err) if below else err

    def _below(self, err: Int8Tensor) -> Int8Tensor:
        """Errors of the input."""
        e = err.e + self.weight_exponent
        if not fast.usable(err.m):
            return rescale(self._error(err.m), e)
        guess = self._error_shift if self.tiles else None
        m, self._error_shift = fast.error(err.m, self.weight, self.padding, guess)
        return Int8Tensor(m, e + self._error_shift)

    padding = 0
    _channel = -1

    def _along_channels(self, bias: Tensor) -> Tensor:
        return bias

    def _product(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _error(self, err: Tensor) -> Tensor:
        """Errors of the input, int32."""
        raise NotImplementedError

    def _gradients(self, err: Int8Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Of the weight and the bias, of `ops.sum_type`."""
        weight = self._weight_gradient(err.m, x)
        if self.bias is None:
            return weight, None
        return weight, err.m.movedim(self._channel, 0).flatten(1).sum(1, dtype=weight.dtype)

    def _weight_gradient(self, err: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, _ in self.named_parameters(recurse=False):
            exponent = torch.tensor(getattr(self, f"{name}_exponent"), dtype=torch.int32)
            destination[f"{prefix}{name}_exponent"] = exponent

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *how: Any) -> None:
        for name, _ in self.named_parameters(recurse=False):
            key = f"{prefix}{name}_exponent"
            if key in state_dict:
                setattr(self, f"{name}_exponent", int(state_dict.pop(key)))
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


def aligned(bias: Tensor, left: int) -> Tensor:
    """int8 m to int32 m 2^left, rounded to nearest where ``left`` is negative.

    What would exceed 2^29 in magnitude is held there; no layer has so many inputs that their sum
    and such a bias overflow int32 (`ops.check_length`).
    """
    wide = bias.to(torch.int64)
    if left >= 0:
        moved = wide << min(left, 40)
    else:
        right = min(-left, 40)
        moved = ((wide.abs() + (1 << (right - 1))) >> right) * wide.sign()
    return moved.clamp(-ops.LARGEST_BIAS, ops.LARGEST_BIAS).to(torch.int32)


class Linear(Weighted):
    """x W^T + b on the last dimension; the dimensions before it are examples or points."""

    def _product(self, x: Tensor) -> Tensor:
        return ops.linear(x, self.weight)

    def _error(self, err: Tensor) -> Tensor:
        return ops.linear_error(err, self.weight)

    def _weight_gradient(self, err: Tensor, x: Tensor) -> Tensor:
        return ops.linear_gradient(err, x)

    def _gradients(self, err: Int8Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if isinstance(err, AtPoints):
            return fast.linear_gradients(err.m, x, self.bias is not None, err.where)
        if fast.usable(err.m):
            return fast.linear_gradients(err.m, x, self.bias is not None)
        return super()._gradients(err, x)

    def _below(self, err: Int8Tensor) -> Int8Tensor:
        if not isinstance(err, AtPoints):
            return super()._below(err)
        m, s = fast.point_error(err, self.weight)
        return Int8Tensor(m, err.e + self.weight_exponent + s)


class Conv2d(Weighted):
    """Convolution of stride 1 with square kernels."""

    _channel = 1

    def __init__(self, weight: Int8Tensor, bias: Int8Tensor | None, padding: int) -> None:
        super().__init__(weight, bias)
        self.padding = padding

    def _along_channels(self, bias: Tensor) -> Tensor:
        return bias.view(-1, 1, 1)

    def _product(self, x: Tensor) -> Tensor:
        return ops.conv2d(x, self.weight, self.padding)

    def _error(self, err: Tensor) -> Tensor:
        return ops.conv2d_error(err, self.weight, self.padding)

    def _weight_gradient(self, err: Tensor, x: Tensor) -> Tensor:
        return ops.conv2d_gradient(err, x, self.weight.shape[2], self.padding)

    def _gradients(self, err: Int8Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
        if fast.usable(err.m):
            kernel, bias = self.weight.shape[2], self.bias is not None
            return fast.conv2d_gradients(err.m, x, kernel, self.padding, bias)
        return super()._gradients(err, x)


class ReLU(Layer):
    """max(x, 0)."""

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y = ops.relu(x.m)
        if self.keeping:
            self.keep_output(y)
        return Int8Tensor(y, x.e)

    def keep_output(self, y: Tensor) -> None:
        """What backward needs."""
        self._kept = y

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        return replace(err, m=ops.relu_backward(err.m, self._take()))


class MaxPool2d(Layer):
    """The largest of each block."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        compiled = fast.usable(x.m) and self.size <= 16  # 256 places fit a byte
        y, where = (fast if compiled else ops).max_pool2d(x.m, self.size)
        if self.keeping:
            self._kept = where, x.m.shape
        return Int8Tensor(y, x.e)

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        where, shape = self._take()
        compiled = where.dtype == torch.uint8
        m = (fast if compiled else ops).max_pool2d_backward(err.m, where, shape, self.size)
        return Int8Tensor(m, err.e)


class MaxOverPoints(Layer):
    """(N, P, C) to (N, C)."""

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y, where = ops.max_over_points(x.m)
        if self.keeping:
            self.keep_output(where, x.m.shape[1])
        return Int8Tensor(y, x.e)

    def keep_output(self, where: Tensor, points: int) -> None:
        """What backward needs: the points (N, C), int32 from the compiled path, and P."""
        self._kept = where, points

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        where, points = self._take()
        if where.dtype == torch.int32:
            return AtPoints(err.m, err.e, where, points)
        return Int8Tensor(ops.max_over_points_backward(err.m, where, points), err.e)


class Flatten(Layer):
    """(N, ...) to (N, the rest in one dimension)."""

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        if self.keeping:
            self._kept = x.m.shape
        images = fast.usable(x.m) and x.m.dim() == 4 and x.m.dtype == torch.int8
        return Int8Tensor(fast.flatten(x.m) if images else x.m.flatten(1), x.e)

    def backward(self, err: Int8Tensor, below: bool = True) -> Int8Tensor:
        return Int8Tensor(err.m.view(self._take()), err.e)
