"""Integer networks: layers that go forward and backward on int8, made from a float model.

An integer model is a sequence. Its weights are int8 with one fixed exponent a tensor; activations
carry theirs along. The last layer with weights is not rounded to int8: its int32 sums are the
logits, so that two passes differ where their loss does.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ezo.int8 import fast, ops
from ezo.int8.rounding import LARGEST, shift
from ezo.int8.tensor import AtPoints, Int8Tensor, quantize, rescale
from ezo.models.pointnet import PointNet

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
        tiles: `Sequence.tiles`.
        weight_gradient, bias_gradient: of `ops.sum_type`, the sum over the backward passes, two at
            most, since they were None. Their exponents play no part in an update (NITI), but in
            that sum.

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


def _sum(old: Int8Tensor | None, new: Tensor, e: int, room: int) -> Int8Tensor:
    """A pass's gradient at exponent ``e`` and an earlier one's, in the place of both.

    The sum has the larger of their exponents, and ``room`` bits more; what that shifts is rounded
    to nearest, halves away from zero.
    """
    if old is None:
        return Int8Tensor(new, e)
    top = max(old.e, e) + room
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


class Sequence(nn.Module):
    """Layers one after the other; the last with weights gives its int32 sums.

    Attributes:
        tiles: on the compiled path, never hold a layer's int32 sums whole: less memory, and now
            and then a layer is computed twice (`ezo.int8.fast`). The bits are the same, and since a
            shift seldom changes from one pass to the next, it costs no time either: `bench run
            precisions` measures both.
    """

    def __init__(self, layers: Iterable[Layer]) -> None:
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        weighted = self.weighted()
        if not weighted or weighted[-1] is not self.layers[-1]:
            raise ValueError("expected a model that ends in a linear layer, the logits")
        weighted[-1].rounded = False
        places = [i for i, layer in enumerate(self.layers) if isinstance(layer, Weighted)]
        self._first_bp = [len(self.layers), *reversed(places)]  # by the number of BP layers
        self._stages = _stages(list(self.layers))

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        """(N, ...), int8, to logits (N, classes), int32."""
        if not isinstance(x, Int8Tensor):
            raise ValueError(
                f"expected an Int8Tensor, got {type(x).__name__}; give ezo.int8.quantize(x)"
            )
        if not fast.usable(x.m):
            for layer in self.layers:
                x = layer(x)
            return x
        for layer, relu, most in self._stages:
            if not isinstance(layer, Weighted):
                x = layer.forward(x)
                continue
            # a maximum of blocks that is kept for backward is a layer of its own
            apart = isinstance(most, MaxPool2d) and most.keeping
            pool = most.size if isinstance(most, MaxPool2d) and not apart else 1
            x = layer.fused(x, relu is not None, pool, isinstance(most, MaxOverPoints))
            if relu is not None and relu.keeping:
                relu.keep_output(x.m)
            if apart:
                x = most.forward(x)
            elif isinstance(x, AtPoints):
                most.keep_output(x.where, x.points)
        return x

    @property
    def tiles(self) -> bool:
        return all(layer.tiles for layer in self.weighted())

    @tiles.setter
    def tiles(self, value: bool) -> None:
        for layer in self.weighted():
            layer.tiles = value

    def weighted(self) -> list[Weighted]:
        """The layers with weights, in order."""
        return [layer for layer in self.layers if isinstance(layer, Weighted)]

    def keep(self, bp_layers: int) -> None:
        """Let the last ``bp_layers`` layers with weights remember what backward needs."""
        first = self._first(bp_layers)
        for i, layer in enumerate(self.layers):
            if layer.keeping != (i >= first):  # setting a module's attribute is slow
                layer.keeping = i >= first

    def backward(self, err: Int8Tensor, bp_layers: int) -> None:
        """Errors of the logits (N, classes) back to the last ``bp_layers`` layers."""
        first = self._first(bp_layers)
        for i in range(len(self.layers) - 1, first - 1, -1):
            err = self.layers[i].backward(err, below=i > first)

    def _first(self, bp_layers: int) -> int:
        if not 0 <= bp_layers < len(self._first_bp):
            most = len(self._first_bp) - 1
            raise ValueError(f"expected 0 to {most} BP layers, got {bp_layers}")
        return self._first_bp[bp_layers]


def _stages(layers: list[Any]) -> list[tuple[Any, ReLU | None, Any]]:
    """Layers with weights, each with the ReLU and the maximum that follow it, and others alone."""
    stages = []
    while layers:
        layer, relu, most = layers.pop(0), None, None
        if isinstance(layer, Weighted):
            if layers and isinstance(layers[0], ReLU):
                relu = layers.pop(0)
            if layers and isinstance(layers[0], (MaxPool2d, MaxOverPoints)):
                most = layers.pop(0)
        stages.append((layer, relu, most))
    return stages


def from_float(model: nn.Module, headroom: int = 0) -> Sequence:
    """The integer network nearest to a float one.

    Takes ``nn.Sequential`` (nested too) of ``Linear``, ``Conv2d`` with stride 1 and square kernels,
    ``ReLU``, ``MaxPool2d``, ``Flatten`` and ``Identity`` (which it leaves out), and our
    PointNet, whose pointwise convolutions become linear layers on (N, P, C).

    Args:
        model: the float model; it is not changed.
        headroom: how far below 127 weights stay, 0 to 126, so that a perturbation of that size is
            not clipped (`ezo.int8.perturb`).

    Raises:
        ValueError: it holds a layer that can't be converted; the message names it and says why. Or
            the headroom is none.
    """
    if isinstance(headroom, bool) or not isinstance(headroom, int) or not 0 <= headroom < LARGEST:
        raise ValueError(
            f"expected headroom to be an integer from 0 to {LARGEST - 1}, got {headroom!r}; give "
            "the largest perturbation, for example 15"
        )
    return Sequence(_convert(model, "model", LARGEST - headroom))


def _convert(module: nn.Module, name: str, largest: int) -> list[Layer]:
    if isinstance(module, PointNet):
        points = _convert(module.points, f"{name}.points", largest)
        return [*points, MaxOverPoints(), *_convert(module.head, f"{name}.head", largest)]
    if type(module) is nn.Sequential:
        return [
            layer
            for child_name, child in module.named_children()
            for layer in _convert(child, f"{name}.{child_name}", largest)
        ]
    convert = _CONVERTERS.get(type(module))
    reason = "no integer form of it is known" if convert is None else None
    if convert is not None:
        reason = _unfit(module)
    if reason or convert is None:
        known = ", ".join(kind.__name__ for kind in _CONVERTERS)
        what = type(module).__name__ if any(module.children()) else module
        raise ValueError(
            f"can't convert {name}, {what}: {reason}; convertible are Sequential, PointNet and "
            f"{known}; build the model from these, or train it in fp32"
        )
    return convert(module, largest)


def _unfit(module: nn.Module) -> str | None:
    """Why a layer of a known kind can't be converted, or None."""
    if isinstance(module, nn.Conv2d):
        k = module.kernel_size[0]
        if module.kernel_size != (k, k) or module.stride != (1, 1) or module.groups != 1:
            return "expected a square kernel, stride 1 and one group"
        if module.dilation != (1, 1) or module.padding_mode != "zeros":
            return "expected no dilation and zero padding"
        padding = module.padding
        if isinstance(padding, str) or padding != (padding[0],) * 2 or padding[0] >= k:
            return "expected a padding that is one number below the kernel's size"
    if isinstance(module, nn.Conv1d) and (
        module.kernel_size != (1,)
        or module.stride != (1,)
        or module.groups != 1
        or module.padding != (0,)
    ):
        return "expected a pointwise convolution: kernel 1, stride 1, one group, no padding"
    if isinstance(module, nn.MaxPool2d):
        size = module.kernel_size
        if not isinstance(size, int) or module.stride != size or module.dilation != 1:
            return "expected square blocks that don't overlap, kernel_size = stride"
        if module.padding != 0 or module.ceil_mode or module.return_indices:
            return "expected no padding, no ceil_mode and no return_indices"
    if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) != (1, -1):
        return "expected all dimensions but the first to be flattened"
    return None


def _parameters(module: Any, largest: int) -> tuple[Int8Tensor, Int8Tensor | None]:
    """Weight and bias. A bias is no finer than the weight: a step moves both by the same."""
    weight = quantize(module.weight, largest)
    if module.bias is None:
        return weight, None
    return weight, quantize(module.bias, largest, lowest_exponent=weight.e)


def _linear(module: nn.Linear, largest: int) -> list[Layer]:
    return [Linear(*_parameters(module, largest))]


def _pointwise(module: nn.Conv1d, largest: int) -> list[Layer]:
    weight, bias = _parameters(module, largest)
    return [Linear(Int8Tensor(weight.m.squeeze(2), weight.e), bias)]


def _conv2d(module: nn.Conv2d, largest: int) -> list[Layer]:
    return [Conv2d(*_parameters(module, largest), int(module.padding[0]))]


_CONVERTERS: dict[type, Callable[..., list[Layer]]] = {
    nn.Linear: _linear,
    nn.Conv1d: _pointwise,
    nn.Conv2d: _conv2d,
    nn.ReLU: lambda module, largest: [ReLU()],
    nn.MaxPool2d: lambda module, largest: [MaxPool2d(module.kernel_size)],
    nn.Flatten: lambda module, largest: [Flatten()],
    nn.Identity: lambda module, largest: [],
}
