"""The layers of an integer network, forward and backward: products summed in int32.

Only a weight's gradient, a sum over the batch, may need more (`matmul_of_any_length`).

Plain torch, to be read with the formulas; the result does not depend on the order of any sum,
so every faster form must give the same bits.

Index letters: n example, c input channel, o output channel, h w position, p point, k kernel.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

Padding = int | tuple[int, int, int, int]  # the same on each side; or top, bottom, left, right

LONGEST_SUM = (2**31 - 1) // 127**2  # products of int8 numbers that int32 can add up: 133,144
LARGEST_BIAS = 1 << 29  # at the accumulators' exponent
LONGEST_WITH_BIAS = (2**31 - 1 - LARGEST_BIAS) // 127**2  # products and a bias: 99,858


class SumTooLong(ValueError):
    """A layer's sum, of its output or of its input's error, could overflow int32."""


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a b^T, int8 (M, K) and (N, K) -> int32 (M, N).

    Raises:
        ValueError: the types or shapes don't fit, or K is so large that a sum could overflow.
    """
    if a.dtype != torch.int8 or b.dtype != torch.int8 or a.shape[1:] != b.shape[1:] or a.dim() != 2:
        raise ValueError(
            "expected int8 matrices (M, K) and (N, K), got "
            f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
        )
    check_length(a.shape[1])
    (m, k), n = a.shape, len(b)
    if not a.is_cuda:
        # torch 2.13's _int_mm reads the wrong memory for some shapes with a dimension of 1, and
        # for views whose rows overlap
        if min(m, n, k) < 2 or not _int_mm_is_exact():
            return a.to(torch.int32) @ b.to(torch.int32).t()
        return torch._int_mm(_dense(a), _dense(b).t())
    # CUDA multiplies int8 alone, and only sizes above 16 and multiples of 8
    rows, inner, columns = max(m, 17), -(-max(k, 8) // 8) * 8, -(-max(n, 8) // 8) * 8
    padded_a, padded_b = a.new_zeros(rows, inner), b.new_zeros(columns, inner)
    padded_a[:m, :k], padded_b[:n, :k] = a, b
    return torch._int_mm(padded_a, padded_b.t())[:m, :n].contiguous()


def check_length(products: int, bias: bool = False) -> None:
    """Raises:
    SumTooLong: a sum of so many products, and a bias, could overflow int32.
    """
    most = LONGEST_WITH_BIAS if bias else LONGEST_SUM
    if products > most:
        raise SumTooLong(
            f"expected at most {most} products a sum{' with a bias' if bias else ''}, so that "
            f"int32 holds it, got {products}; lower the layer's width"
            f"{' or leave out its bias' if products <= LONGEST_SUM else ''}"
        )


def matmul_of_any_length(a: Tensor, b: Tensor) -> Tensor:
    """`matmul`, of `sum_type`: where int32 could overflow, parts that can't, added up in int64."""
    k = a.shape[1]
    if k <= LONGEST_SUM:
        return matmul(a, b)
    total = torch.zeros((len(a), len(b)), dtype=torch.int64, device=a.device)
    for first in range(0, k, LONGEST_SUM):
        part = slice(first, first + LONGEST_SUM)
        total += matmul(a[:, part], b[:, part])
    return total


def sum_type(products: int) -> torch.dtype:
    """int32, or int64 where that could not hold a sum of so many products."""
    return torch.int32 if products <= LONGEST_SUM else torch.int64


def _dense(a: Tensor) -> Tensor:
    """``a``, copied unless it is a matrix or a transposed matrix without gaps or overlaps."""
    return a if a.is_contiguous() or a.t().is_contiguous() else a.contiguous()


@functools.cache
def _int_mm_is_exact() -> bool:
    """Whether this processor's int8 product adds up in int32 all the way.

    Without VNNI instructions some add pairs of products in 16 bits, which overflow; the largest
    products show it.
    """
    a = torch.full((32, 64), 127, dtype=torch.int8)
    exact = [torch._int_mm(a, sign * a.t()) == sign * 64 * 127**2 for sign in (1, -1)]
    return all(bool(found.all()) for found in exact)


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T: (..., I), (O, I) -> (..., O). Points of a cloud are leading dimensions."""
    return matmul(x.flatten(0, -2), weight).view(*x.shape[:-1], len(weight))


def linear_error(grad_output: Tensor, weight: Tensor) -> Tensor:
    """Errors (..., O) to errors of x (..., I), int32."""
    return matmul(grad_output.flatten(0, -2), weight.t()).view(
        *grad_output.shape[:-1], weight.shape[1]
    )


def linear_gradient(grad_output: Tensor, x: Tensor) -> Tensor:
    """Errors (..., O) and x (..., I) to the gradient of W (O, I), of `sum_type`."""
    return matmul_of_any_length(grad_output.flatten(0, -2).t(), x.flatten(0, -2).t())


def sides(padding: Padding) -> tuple[int, int, int, int]:
    """Zeros at the top, the bottom, the left and the right."""
    return (padding, padding, padding, padding) if isinstance(padding, int) else padding


def places(
    size: Sequence[int], kernel: Sequence[int], padding: Padding, stride: tuple[int, int]
) -> tuple[int, int]:
    """Height and width of a convolution's output, from its input's."""
    top, bottom, left, right = sides(padding)
    h, w = size[0] + top + bottom - kernel[0], size[1] + left + right - kernel[1]
    return h // stride[0] + 1, w // stride[1] + 1


def conv2d(
    x: Tensor,
    weight: Tensor,
    padding: Padding = 0,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Convolution: int8 (N, C, H, W) and (O, C / groups, K, K') -> int32 (N, O, H', W').

    ``padding`` is the zeros on each side, or on the top, the bottom, the left and the right.
    """
    if groups == 1:
        patches, (n, h, w) = _patches(x, weight.shape[2:], padding, stride)
        acc = matmul(patches, weight.flatten(1))  # (n h w, o)
        return acc.view(n, h, w, len(weight)).permute(0, 3, 1, 2).contiguous()
    if weight.shape[1] > 1:
        parts = zip(x.chunk(groups, 1), weight.chunk(groups), strict=True)
        return torch.cat([conv2d(part, w, padding, stride) for part, w in parts], 1)
    own: Any = 0
    for (i, j), tap in _taps(x, weight.shape, padding, stride):
        own = own + tap.to(torch.int32) * weight[:, 0, i, j].view(-1, 1, 1)
    return own.contiguous()


def conv2d_error(
    grad_output: Tensor,
    weight: Tensor,
    padding: Padding = 0,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
    size: Sequence[int] | None = None,
) -> Tensor:
    """Errors (N, O, H', W') to errors of x (N, C, H, W), int32.

    ``size`` is (H, W), which a stride above 1 leaves open; None for the smallest.
    """
    n, outputs, rows, columns = grad_output.shape
    kernel, (top, bottom, left, right) = weight.shape[2:], sides(padding)
    tall, wide = (rows - 1) * stride[0] + 1, (columns - 1) * stride[1] + 1
    if stride != (1, 1):  # errors with zeros between them
        apart = grad_output.new_zeros(n, outputs, tall, wide)
        apart[:, :, :: stride[0], :: stride[1]] = grad_output
        grad_output = apart
    # convolved with the kernels turned round, inputs and outputs swapped
    grouped = weight.flip(2, 3).unflatten(0, (groups, -1)).transpose(1, 2)
    around = (kernel[0] - 1, kernel[0] - 1, kernel[1] - 1, kernel[1] - 1)
    found = conv2d(grad_output, grouped.flatten(0, 1).contiguous(), around, groups=groups)
    tall, wide = tall + kernel[0] - 1, wide + kernel[1] - 1  # of the padded input, as far as seen
    h, w = size if size is not None else (tall - top - bottom, wide - left - right)
    found = found[:, :, top : top + h, left : left + w]
    missing = h - found.shape[2], w - found.shape[3]
    if any(missing):
        found = torch.nn.functional.pad(found, (0, missing[1], 0, missing[0]))
    return found.contiguous()


def conv2d_gradient(
    grad_output: Tensor,
    x: Tensor,
    kernel: int | Sequence[int],
    padding: Padding = 0,
    stride: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """Errors (N, O, H', W') and x (N, C, H, W) to the gradient of W, of `sum_type`."""
    high, wide = (kernel, kernel) if isinstance(kernel, int) else kernel
    outputs, inputs = grad_output.shape[1], x.shape[1] // groups
    if groups == 1:
        patches, _ = _patches(x, (high, wide), padding, stride)  # (n h w, c k k)
        flat_err = grad_output.permute(1, 0, 2, 3).flatten(1)  # (o, n h w)
        gradient = matmul_of_any_length(flat_err, patches.t())
        return gradient.view(outputs, inputs, high, wide)
    if inputs > 1:
        parts = zip(grad_output.chunk(groups, 1), x.chunk(groups, 1), strict=True)
        return torch.cat([conv2d_gradient(g, p, (high, wide), padding, stride) for g, p in parts])
    kind = sum_type(grad_output.numel() // outputs)
    gradient = torch.empty((outputs, 1, high, wide), dtype=kind, device=x.device)
    for (i, j), tap in _taps(x, gradient.shape, padding, stride):
        product = tap.to(torch.int32) * grad_output
        gradient[:, 0, i, j] = product.sum((0, 2, 3), dtype=kind)
    return gradient


def _padded(x: Tensor, padding: Padding) -> Tensor:
    n, c, h, w = x.shape
    top, bottom, left, right = sides(padding)
    padded = x.new_zeros(n, c, h + top + bottom, w + left + right)
    padded[:, :, top : top + h, left : left + w] = x
    return padded


def _patches(
    x: Tensor, kernel: Sequence[int], padding: Padding, stride: tuple[int, int]
) -> tuple[Tensor, tuple[int, int, int]]:
    """The kernel's view at each position, a row each: (n h w, c k k), and (n, h, w)."""
    n, c = x.shape[:2]
    padded = _padded(x, padding)
    views = padded.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1])  # n c h w k k
    _, _, h_out, w_out = views.shape[:4]
    rows = views.permute(0, 2, 3, 1, 4, 5).reshape(n * h_out * w_out, c * kernel[0] * kernel[1])
    return rows, (n, h_out, w_out)


def _taps(
    x: Tensor, of: Sequence[int], padding: Padding, stride: tuple[int, int]
) -> Iterator[tuple[tuple[int, int], Tensor]]:
    """For each place in a kernel of shape ``of`` (O, 1, K, K'), what it meets: (N, O, H', W')."""
    outputs, _, high, wide = of
    rows, columns = places(x.shape[2:], (high, wide), padding, stride)
    padded = _padded(x, padding).repeat_interleave(outputs // x.shape[1], 1)
    for i, j in itertools.product(range(high), range(wide)):
        down = slice(i, i + (rows - 1) * stride[0] + 1, stride[0])
        across = slice(j, j + (columns - 1) * stride[1] + 1, stride[1])
        yield (i, j), padded[:, :, down, across]


def aligned(bias: Tensor, left: int) -> Tensor:
    """int8 m to int32 m 2^left, rounded to nearest where ``left`` is negative.

    What would exceed 2^29 in magnitude is held there; no layer has so many inputs that their sum
    and such a bias overflow int32 (`check_length`).
    """
    wide = bias.to(torch.int64)
    if left >= 0:
        moved = wide << min(left, 40)
    else:
        right = min(-left, 40)
        moved = ((wide.abs() + (1 << (right - 1))) >> right) * wide.sign()
    return moved.clamp(-LARGEST_BIAS, LARGEST_BIAS).to(torch.int32)


def relu(x: Tensor) -> Tensor:
    """max(x, 0), any integer type."""
    return x.clamp(min=0)


def relu_backward(grad_output: Tensor, y: Tensor) -> Tensor:
    """Errors of the output to errors of the input; ``y`` is the output."""
    return torch.ops.aten.threshold_backward(grad_output, y, 0)  # without a mask


def max_pool2d(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The largest of each ``size`` x ``size`` block; what does not fill a block is left out.

    Any integers (N, C, H, W) -> (N, C, H // size, W // size), and where in its block, row by row,
    the first largest stands.
    """
    n, c, h, w = x.shape
    blocks = x[:, :, : h // size * size, : w // size * size]
    blocks = blocks.reshape(n, c, h // size, size, w // size, size)
    blocks = blocks.permute(0, 1, 2, 4, 3, 5).flatten(4)  # n c h w (k k)
    return _first_largest(blocks)


def max_pool2d_backward(grad_output: Tensor, where: Tensor, shape: torch.Size, size: int) -> Tensor:
    """Errors (N, C, H', W') to errors of ``shape`` (N, C, H, W), zero but for the largest."""
    n, c, h, w = grad_output.shape
    blocks = grad_output.new_zeros(n, c, h, w, size * size)
    blocks.scatter_(4, where.unsqueeze(4), grad_output.unsqueeze(4))
    blocks = blocks.view(n, c, h, w, size, size).permute(0, 1, 2, 4, 3, 5)
    grad_input = grad_output.new_zeros(shape)
    grad_input[:, :, : h * size, : w * size] = blocks.reshape(n, c, h * size, w * size)
    return grad_input


def max_over_points(x: Tensor) -> tuple[Tensor, Tensor]:
    """(N, P, C) to (the largest over points (N, C), the first point that has it)."""
    return _first_largest(x.transpose(1, 2))


def max_over_points_backward(grad_output: Tensor, where: Tensor, points: int) -> Tensor:
    """Errors (N, C) to errors (N, P, C), zero but for the largest."""
    grad_input = grad_output.new_zeros(len(grad_output), points, grad_output.shape[1])
    return grad_input.scatter_(1, where.unsqueeze(1), grad_output.unsqueeze(1))


def _first_largest(x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest along the last dimension and its first place (argmax promises no order)."""
    largest = x.amax(-1)
    before = (x != largest.unsqueeze(-1)).cumprod(-1, dtype=torch.int8)  # 1 up to that place
    return largest, before.sum(-1)
