"""What the compiled kernels are given: tensors as addresses, structs as tuples of their fields."""

from typing import Any

import torch
from torch import Tensor

from ezo.int8.loss import tables
from ezo.kernels import Layer, Weights


def turned(layer: Layer) -> Layer:
    """The layer whose product with errors of the output is the errors of the input."""
    if layer.weight.dim() == 2:
        return Layer(layer.weight.t().contiguous())
    weight = layer.weight.flip(2, 3).transpose(0, 1).contiguous()
    return Layer(weight, padding=weight.shape[2] - 1 - layer.padding)


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


def check(dtype: torch.dtype, size: torch.Size, of: torch.Size, padding: int) -> None:
    """What the kernels, which see addresses alone, rely on."""
    fits = dtype is torch.int8
    if fits and len(of) == 4:
        fits = len(size) == 4 and size[1] == of[1] and min(size[2:]) + 2 * padding >= of[2]
    elif fits:
        fits = len(size) > 1 and size[-1] == of[1]
    if not fits:
        raise ValueError(
            f"expected int8 input that fits weights of shape {tuple(of)}, "
            f"{'(N, C, H, W)' if len(of) == 4 else '(..., I)'}, got {dtype} {tuple(size)}"
        )


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def images(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H, W, C) in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def described(x: Tensor) -> tuple[int, int, int, int]:
    """The kernels' Images, of (N, C, H, W) in channels_last."""
    images, _, height, width = x.shape
    return x.data_ptr(), images, height, width


def numbers(layer: Layer, of: torch.Size) -> tuple[int, int, int, int, int, int, int]:
    """The kernels' Layer, of weights of such a shape."""
    kernel = of[2] if len(of) == 4 else 1
    weight, bias, left, padding = layer
    return of[1], of[0], kernel, padding, weight.data_ptr(), address(bias), left


def table(weights: Weights, fractions: Weights | None, first: int) -> list[tuple[int, ...]]:
    if fractions is None:
        return [(w.data_ptr(), 0, w.numel(), t) for t, w in enumerate(weights, first)]
    both = enumerate(zip(weights, fractions, strict=True), first)
    return [(w.data_ptr(), f.data_ptr(), w.numel(), t) for t, (w, f) in both]
