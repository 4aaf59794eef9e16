"""From a float model to the integer network nearest to it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from ezo.int8.layers import Conv2d, Flatten, Layer, Linear, MaxOverPoints, MaxPool2d, ReLU
from ezo.int8.network import Sequence
from ezo.int8.rounding import LARGEST
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.models.pointnet import PointNet


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
