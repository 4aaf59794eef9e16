"""The layers of an integer network, forward and backward: products summed in int32.

Only a weight's gradient, a sum over the batch, may need more (`matmul_of_any_length`).

Plain torch, to be read with the formulas; the result does not depend on the order of any sum,
so every faster form must give the same bits.

Index letters: n example, c input channel, o output channel, h w position, p point, k kernel.
"""

import functools

import torch
from torch import Tensor

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


def conv2d(x: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """Convolution of stride 1, zeros on each side: int8 (N, C, H, W) and (O, C, K, K) -> int32.

    It is (N, O, H + 2 padding - K + 1, W + 2 padding - K + 1).
    """
    patches, (n, h, w) = _patches(x, weight.shape[2:], padding)
    acc = matmul(patches, weight.flatten(1))  # (n h w, o)
    return acc.view(n, h, w, len(weight)).permute(0, 3, 1, 2).contiguous()


def conv2d_error(grad_output: Tensor, weight: Tensor, padding: int = 0) -> Tensor:
    """Errors (N, O, H', W') to errors of x (N, C, H, W), int32."""
    k = weight.shape[2]
    # convolved with the kernels turned round, inputs and outputs swapped
    grad_input = conv2d(grad_output, weight.flip(2, 3).transpose(0, 1).contiguous(), k - 1)
    if padding:
        grad_input = grad_input[:, :, padding:-padding, padding:-padding].contiguous()
    return grad_input


def conv2d_gradient(grad_output: Tensor, x: Tensor, kernel: int, padding: int = 0) -> Tensor:
    """Errors (N, O, H', W') and x (N, C, H, W) to the gradient of W (O, C, K, K), of `sum_type`."""
    patches, _ = _patches(x, (kernel, kernel), padding)  # (n h w, c k k)
    flat_err = grad_output.permute(1, 0, 2, 3).flatten(1)  # (o, n h w)
    gradient = matmul_of_any_length(flat_err, patches.t())
    return gradient.view(grad_output.shape[1], x.shape[1], kernel, kernel)


def _patches(
    x: Tensor, kernel: tuple[int, ...], padding: int
) -> tuple[Tensor, tuple[int, int, int]]:
    """The kernel's view at each position, a row each: (n h w, c k k), and (n, h, w)."""
    n, c, h, w = x.shape
    padded = x.new_zeros(n, c, h + 2 * padding, w + 2 * padding)
    padded[:, :, padding : padding + h, padding : padding + w] = x
    views = padded.unfold(2, kernel[0], 1).unfold(3, kernel[1], 1)  # n c h w k k
    _, _, h_out, w_out = views.shape[:4]
    rows = views.permute(0, 2, 3, 1, 4, 5).reshape(n * h_out * w_out, c * kernel[0] * kernel[1])
    return rows, (n, h_out, w_out)


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
