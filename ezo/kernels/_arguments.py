"""What the compiled kernels are given: tensors as addresses, structs as tuples of their fields."""

import functools
import math
from typing import Any

import torch
from torch import Tensor

from ezo.int8.loss import tables
from ezo.int8.ops import check_length, places, sides
from ezo.kernels import Layer, Weights

POINT = (1, 1, 1, 1, 0, 0, 0, 0)  # of a linear layer


def serves(layer: Layer) -> bool:
    """Whether there are kernels for its product: of one group, or of one for each channel."""
    groups = layer.groups
    return groups == 1 or layer.weight.shape[:2] == (groups, 1)


def plain(layer: Layer) -> bool:
    """Whether there are kernels for its gradient: square, of stride 1, evenly padded, one group."""
    if layer.weight.dim() == 2:
        return True
    high, wide = layer.weight.shape[2:]
    even = isinstance(layer.padding, int)
    return high == wide and even and layer.stride == (1, 1) and layer.groups == 1


def turned(layer: Layer) -> Layer:
    """The layer whose product with errors of the output is the errors of the input; of stride 1."""
    if layer.weight.dim() == 2:
        return Layer(layer.weight.t().contiguous())
    weight = layer.weight.flip(2, 3)
    weight = weight.contiguous() if layer.groups > 1 else weight.transpose(0, 1).contiguous()
    (high, wide), (top, bottom, left, right) = weight.shape[2:], sides(layer.padding)
    around = (high - 1 - top, high - 1 - bottom, wide - 1 - left, wide - 1 - right)
    return Layer(weight, padding=around, groups=layer.groups)


def takes(x: Tensor) -> bool:
    return x.is_cpu and x.numel() > 0


def classified(logits: Tensor, target: Tensor) -> bool:
    """Whether these are int32 logits with a class for each example."""
    of = logits.shape
    types = logits.dtype is torch.int32 and target.dtype is torch.int64
    ordered = logits.is_contiguous() and target.is_contiguous() and target.is_cpu
    return types and ordered and takes(logits) and len(of) == 2 and target.shape == of[:1]


def logits(logits: Tensor, exponent: int, target: Tensor) -> tuple[Any, ...]:
    """The kernels' arguments."""
    exp2, log2 = tables()
    both = (exp2.data_ptr(), log2.data_ptr())
    return logits.data_ptr(), *logits.shape, exponent, target.data_ptr(), both


@functools.lru_cache(1024)  # a layer meets the same sizes in every pass
def geometry(
    size: torch.Size, of: torch.Size, padding: Any, stride: tuple[int, int], groups: int
) -> tuple[tuple[int, ...], int, int]:
    """A convolution's Kernel, and height and width of its output, 0 where x does not fit."""
    kernel = (*of[2:], *stride, *sides(padding))
    if len(size) != 4 or size[1] != of[1] * groups:
        return kernel, 0, 0
    rows, columns = places(size[2:], of[2:], padding, stride)
    return kernel, max(rows, 0), max(columns, 0)


def check(dtype: torch.dtype, size: torch.Size, of: torch.Size, fits: bool) -> None:
    """What the kernels, which see addresses alone, rely on."""
    if dtype is not torch.int8 or not fits:
        raise ValueError(
            f"expected int8 input that fits weights of shape {tuple(of)}, "
            f"{'(N, C, H, W)' if len(of) == 4 else '(..., I)'}, got {dtype} {tuple(size)}"
        )


@functools.lru_cache(1024)
def sizes(
    dtype: torch.dtype,
    size: torch.Size,
    of: torch.Size,
    bias: bool,
    pool: int,
    over_points: bool,
    *how: Any,
) -> tuple[tuple[int, ...], tuple[Any, ...], tuple[int, ...], bool]:
    """Of a product: what x is besides its address, what the layer is besides its weights and its
    bias, the result's shape, and whether it is images. A layer meets the same ones in every pass.

    Raises:
        ValueError: x does not fit the weights, or an accumulator could overflow.
    """
    outputs, channels = of[:2]
    if len(of) == 2:
        check(dtype, size, of, len(size) > 1 and size[-1] == channels)
        check_length(channels, bias)
        layer = channels, outputs, POINT, how[2]
        if over_points:
            return (size[0], 1, size[1]), layer, (size[0], outputs), False
        return (1, 1, math.prod(size[:-1])), layer, (*size[:-1], outputs), False
    kernel, rows, columns = geometry(size, of, *how)
    check(dtype, size, of, rows > 0 and columns > 0)
    check_length(channels * kernel[0] * kernel[1], bias)
    images, _, height, width = size
    x = images, height, width
    if kernel == POINT and pool == 1 and how[2] == 1:
        x = 1, 1, images * height * width  # as a linear layer's rows
    shape = images, outputs, rows // pool, columns // pool
    return x, (channels, outputs, kernel, how[2]), shape, True


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def described(x: Tensor) -> tuple[int, int, int, int]:
    """The kernels' Images, of (N, C, H, W) in channels_last."""
    images, _, height, width = x.shape
    return x.data_ptr(), images, height, width


def numbers(layer: Layer, of: torch.Size, kernel: tuple[int, ...]) -> tuple[Any, ...]:
    """The kernels' Layer, of weights of such a shape."""
    weight, bias, left, _, _, groups = layer
    return of[1], of[0], kernel, groups, weight.data_ptr(), address(bias), left


def table(weights: Weights, fractions: Weights | None, first: int) -> list[tuple[int, ...]]:
    if fractions is None:
        return [(w.data_ptr(), 0, w.numel(), t) for t, w in enumerate(weights, first)]
    both = enumerate(zip(weights, fractions, strict=True), first)
    return [(w.data_ptr(), f.data_ptr(), w.numel(), t) for t, (w, f) in both]
