"""The compiled path on CPU: the reference's integers, to the bit, several times sooner.

A layer's product, ReLU, and maximum are one sweep. What is rounded to int8 must know the largest of
all sums first, and there are two ways to that:

    whole   the sums, after the maximum, wait in an int32 buffer; then they are rounded
    tiles   each tile of sums is rounded by the shift of the last pass and thrown away; where the
            largest sum then asks for another shift, the layer is computed again

Backward, errors of a layer's input are such a product too. The error that comes out of a maximum
over points is zero but for one point a channel and cloud: it stays (N, C), with the points
(`ezo.int8.tensor.AtPoints`), and nothing as large as the maximum's input is ever made.

Layouts: images lie in memory as (N, H, W, C), torch's channels_last, whatever their shape says.
"""

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ezo import noise as _noise
from ezo import perturb
from ezo.int8.ops import check_length, sum_type
from ezo.int8.tensor import AtPoints

_kernels: Any
try:
    _kernels = importlib.import_module("ezo._kernels")
except ImportError:
    _kernels = None

_isa = ""  # of the kernels; empty for the best that the processor has


def usable(x: Tensor) -> bool:
    """Whether the compiled path can work on ``x``."""
    return _kernels is not None and _isa != "reference" and x.is_cpu and x.numel() > 0


def warn_where_missing() -> None:
    """Say once that the reference has to do, where there are no kernels."""
    if _kernels is None:
        perturb.warn_once()


@contextlib.contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Within, use the kernels of this instruction set, or with ``reference`` none."""
    global _isa
    before, _isa = _isa, name
    try:
        yield
    finally:
        _isa = before


def product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bias_left: int,
    padding: int = 0,
    relu: bool = False,
    pool: int = 1,
    over_points: bool = False,
    shift: int | None = None,
    where: Tensor | None = None,
) -> tuple[Tensor, int]:
    """A layer's sums, and what comes after them.

    Args:
        x: int8, (N, C, H, W) for a convolution, (..., I) for a linear layer, (N, P, I) before a
            maximum over points.
        weight: int8, (O, C, K, K) or (O, I), contiguous.
        bias: int8, (O,), or None; added as bias 2^bias_left.
        padding: of a convolution.
        relu: keep what is positive.
        pool: keep the largest of blocks of this size.
        over_points: keep the largest over points, (N, O).
        shift: round to int8 by this shift; None for int32.
        where: int32, (N, O), contiguous, gets the first point of each largest over points, as
            rounded; with a ``shift``.

    Returns:
        (the result, bits of the largest of all sums).

    Raises:
        ValueError: x does not fit the weight, or a sum could overflow.
    """
    _check(x, weight, padding)
    outputs = weight.shape[0]
    check_length(weight.numel() // outputs, bias is not None)
    out_type = torch.int32 if shift is None else torch.int8
    if weight.dim() == 4:
        x = _images(x)
        images, channels, height, width = x.shape
        kernel = weight.shape[2]
        grown = 2 * padding - kernel + 1
        shape = (images, outputs, (height + grown) // pool, (width + grown) // pool)
        out = torch.empty(shape, dtype=out_type, memory_format=torch.channels_last)
    else:
        x = x.contiguous()
        kernel, height, channels = 1, 1, x.shape[-1]
        if over_points:
            images, width = x.shape[0], x.shape[1]
            out = torch.empty((images, outputs), dtype=out_type)
        else:
            images, width = 1, x.numel() // channels
            out = torch.empty((*x.shape[:-1], outputs), dtype=out_type)
    largest = _kernels.int8_product(
        x.data_ptr(),
        images,
        height,
        width,
        channels,
        weight.data_ptr(),
        outputs,
        kernel,
        padding,
        0 if bias is None else bias.data_ptr(),
        bias_left,
        relu,
        pool,
        over_points,
        -1 if shift is None else shift,
        out.data_ptr(),
        0 if where is None else where.data_ptr(),
        torch.get_num_threads(),
        _isa,
    )
    return out, largest.bit_length()


def rounded(sums: Callable[..., tuple[Tensor, int]], guess: int | None) -> tuple[Tensor, int]:
    """A `product` rounded to int8, and the shift that its largest sum asks for.

    Args:
        sums: `product`, with all its arguments but ``shift``.
        guess: the last pass's shift, by which tiles are rounded at once, and again where it was not
            the one; None for whole sums.
    """
    m, bits = sums(shift=guess)
    s = max(0, bits - 7)
    if guess is None:
        return rescale(m, s), s
    if s != guess:
        del m  # so that a second pass needs no more memory than a first
        m, _ = sums(shift=s)
    return m, s


def _check(x: Tensor, weight: Tensor, padding: int) -> None:
    """What the kernels, which see addresses alone, rely on."""
    images = weight.dim() == 4
    fits = x.dtype == torch.int8 and x.dim() == 4 if images else x.dtype == torch.int8
    if fits and images:
        fits = x.shape[1] == weight.shape[1] and min(x.shape[2:]) + 2 * padding >= weight.shape[2]
    elif fits:
        fits = x.dim() > 1 and x.shape[-1] == weight.shape[1]
    if not fits or x.numel() == 0:
        raise ValueError(
            f"expected int8 input, not empty, that fits weights of shape {tuple(weight.shape)}, "
            f"{'(N, C, H, W)' if images else '(..., I)'}, got {x.dtype} {tuple(x.shape)}"
        )


def rescale(acc: Tensor, s: int) -> Tensor:
    """int32 to int8, divided by 2^s and rounded to nearest; the memory format stays."""
    out = torch.empty_like(acc, dtype=torch.int8)
    _kernels.int8_rescale(acc.data_ptr(), out.data_ptr(), acc.numel(), s, _isa)
    return out


def words(seed: int, step: int, stream: int, n: int) -> Tensor:
    """The first ``n`` words of tensor 0 of a stream (`ezo.noise.words`), int64."""
    out = torch.empty(-(-n // _noise.GROUP) * _noise.GROUP, dtype=torch.int64)
    _kernels.int8_words(out.data_ptr(), out.numel(), seed, step, stream, _isa)
    return out[:n]


def linear_gradients(
    err: Tensor, x: Tensor, bias: bool, where: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias, of `sum_type`.

    Args:
        err: int8, (..., O).
        x: int8, (..., I), or with ``where`` (N, P, I).
        bias: whether there is one.
        where: int32, (N, O), contiguous: the point of x that each error belongs to, which is then
            (N, O).
    """
    outputs, inputs = err.shape[-1], x.shape[-1]
    sums = sum_type(x.numel() // inputs)
    err, x = err.contiguous(), x.contiguous()
    weight = torch.empty((outputs, inputs), dtype=sums)
    of_bias = torch.empty(outputs, dtype=sums) if bias else None
    _kernels.int8_weight_gradient(
        err.data_ptr(),
        0 if where is None else where.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        0 if of_bias is None else of_bias.data_ptr(),
        err.numel() // outputs,
        1 if where is None else x.shape[1],
        outputs,
        inputs,
        sums == torch.int64,
    )
    return weight, of_bias


def conv2d_gradients(
    err: Tensor, x: Tensor, kernel: int, padding: int, bias: bool
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight (O, C, K, K) and bias, of `sum_type`.

    Args:
        err: int8, (N, O, H', W').
        x: int8, (N, C, H, W).
        kernel, padding, bias: the layer's, and whether it has one.
    """
    (n, channels, height, width), outputs = x.shape, err.shape[1]
    sums = sum_type(err.numel() // outputs)
    err, x = _images(err), _images(x)
    weight = torch.empty((outputs, kernel, kernel, channels), dtype=sums)
    of_bias = torch.empty(outputs, dtype=sums) if bias else None
    _kernels.int8_conv_gradient(
        err.data_ptr(),
        x.data_ptr(),
        weight.data_ptr(),
        0 if of_bias is None else of_bias.data_ptr(),
        n,
        height,
        width,
        channels,
        outputs,
        kernel,
        padding,
        sums == torch.int64,
    )
    return weight.permute(0, 3, 1, 2).contiguous(), of_bias


def error(err: Tensor, weight: Tensor, padding: int, guess: int | None) -> tuple[Tensor, int]:
    """Errors of a layer's output to errors of its input, `rounded`, and their shift."""
    if weight.dim() == 2:
        return rounded(partial(product, err, weight.t().contiguous(), None, 0), guess)
    turned = weight.flip(2, 3).transpose(0, 1).contiguous()
    padding = weight.shape[2] - 1 - padding
    return rounded(partial(product, err, turned, None, 0, padding=padding), guess)


def point_error(err: AtPoints, weight: Tensor) -> tuple[Tensor, int]:
    """Errors of a linear layer at single points to errors of its input, and their shift.

    Args:
        err: int8, (N, O), and their points.
        weight: int8, (O, I), contiguous.

    Returns:
        (int8, (N, P, I), the shift). No sum is held but one point's.
    """
    outputs, inputs = weight.shape
    check_length(outputs)
    m = err.m.contiguous()
    below = torch.empty((len(m), err.points, inputs), dtype=torch.int8)
    s: int = _kernels.int8_point_error(
        m.data_ptr(),
        err.where.data_ptr(),
        weight.data_ptr(),
        below.data_ptr(),
        len(m),
        err.points,
        outputs,
        inputs,
        _isa,
    )
    return below, s


def flatten(x: Tensor) -> Tensor:
    """int8 (N, C, H, W) to (N, C H W)."""
    n, channels, height, width = x.shape
    x = _images(x)
    out = torch.empty((n, channels * height * width), dtype=torch.int8)
    _kernels.int8_flatten(x.data_ptr(), out.data_ptr(), n, height * width, channels)
    return out


def max_pool2d(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`ezo.int8.ops.max_pool2d` of int8 (N, C, H, W), where ``size`` is at most 16."""
    n, channels, height, width = x.shape
    x = _images(x)
    shape = (n, channels, height // size, width // size)
    y = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
    where = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
    _kernels.int8_max_pool(
        x.data_ptr(), y.data_ptr(), where.data_ptr(), n, height, width, channels, size
    )
    return y, where


def max_pool2d_backward(err: Tensor, where: Tensor, shape: torch.Size, size: int) -> Tensor:
    """`ezo.int8.ops.max_pool2d_backward`, with `max_pool2d`'s ``where``."""
    n, channels, height, width = shape
    err = _images(err)
    below = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
    _kernels.int8_max_pool_backward(
        err.data_ptr(), where.data_ptr(), below.data_ptr(), n, height, width, channels, size
    )
    return below


def _images(x: Tensor) -> Tensor:
    """(N, C, H, W) as (N, H, W, C) in memory."""
    return x.contiguous(memory_format=torch.channels_last)


def bp_update(
    weight: Tensor, fraction: Tensor | None, gradient: Tensor, mu: int, bound: int
) -> None:
    """W <- clip(W - PSR(gradient, bits(gradient) - mu)) within +-bound, in place."""
    _kernels.int8_bp_update(
        weight.data_ptr(),
        0 if fraction is None else fraction.data_ptr(),
        gradient.contiguous().data_ptr(),
        weight.numel(),
        mu,
        bound,
        gradient.dtype == torch.int64,
    )


def total_loss(logits: Tensor, exponent: int, target: Tensor, tables: tuple[Tensor, Tensor]) -> int:
    """The sum of `ezo.int8.loss.cross_entropy`, from int32 logits (N, K)."""
    exp2, log2 = tables
    total: int = _kernels.int8_loss(
        logits.data_ptr(),
        *logits.shape,
        exponent,
        target.data_ptr(),
        exp2.data_ptr(),
        log2.data_ptr(),
    )
    return total


def loss_error(
    logits: Tensor, exponent: int, target: Tensor, u: Tensor, tables: tuple[Tensor, Tensor]
) -> Tensor:
    """`ezo.int8.loss.cross_entropy_gradient`, int8, from int32 logits (N, K)."""
    exp2, log2 = tables
    error = torch.empty(logits.shape, dtype=torch.int8)
    _kernels.int8_loss_error(
        logits.data_ptr(),
        *logits.shape,
        exponent,
        target.data_ptr(),
        exp2.data_ptr(),
        log2.data_ptr(),
        u.data_ptr(),
        error.data_ptr(),
    )
    return error


def shift_(
    parameters: Sequence[Tensor],
    place: tuple[int, int, int],
    noise: tuple[int, int],
    first_tensor: int,
    times: int,
) -> None:
    """theta <- theta + times z, in place (`ezo.int8.perturb.shift_`)."""
    _kernels.int8_shift(
        _addresses(parameters, None, first_tensor),
        *place,
        *noise,
        times,
        torch.get_num_threads(),
        _isa,
    )


def update_(
    parameters: Sequence[Tensor],
    fractions: Sequence[Tensor] | None,
    place: tuple[int, int, int],
    noise: tuple[int, int],
    first_tensor: int,
    g: int,
    rate: int,
    bound: int,
    restore: int,
) -> None:
    """theta <- clip(theta - g sign(z) ((|z| rate + u) >> 16)) (`ezo.int8.perturb.update_`)."""
    _kernels.int8_update(
        _addresses(parameters, fractions, first_tensor),
        *place,
        *noise,
        g,
        rate,
        bound,
        restore,
        torch.get_num_threads(),
        _isa,
    )


def _addresses(
    parameters: Sequence[Tensor], fractions: Sequence[Tensor] | None, first: int
) -> list[tuple[int, int, int, int]]:
    if fractions is None:
        return [(p.data_ptr(), 0, p.numel(), t) for t, p in enumerate(parameters, start=first)]
    both = zip(parameters, fractions, strict=True)
    return [
        (p.data_ptr(), f.data_ptr(), p.numel(), t) for t, (p, f) in enumerate(both, start=first)
    ]
