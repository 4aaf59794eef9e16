"""The sparse sweeps over int8 weights as a Triton kernel: `ezo.int8.perturb`, to the bit."""

import triton
import triton.language as tl

from ezo.kernels._triton import NOT_SPECIALIZED, philox, row_of

SPARSE_ARGUMENTS = ("threshold", "multiplier", "bound", "times", "g", "rate")


@triton.jit
def sparse_visit(weights, fractions, n, i, half, noise, move, FINE: tl.constexpr):
    """Shift, or where a rate is given update, int8 weights i by 16 bits of noise each."""
    threshold, multiplier, bound = noise
    times, g, rate, moves = move
    y = half & 0x7FFF
    t = tl.maximum(y, threshold) - threshold
    magnitude = (t * multiplier >> 16) + (y >= threshold).to(tl.int32)
    negative = half >> 15 == 1
    z = tl.where(negative, -magnitude, magnitude)
    theta = tl.load(weights + i, mask=i < n).to(tl.int32) + times * z
    if not moves:
        tl.store(weights + i, theta.to(tl.int8), mask=i < n)
        return
    u = t * multiplier & 0xFFFF
    if FINE:
        theta = theta * 256 + tl.load(fractions + i, mask=i < n).to(tl.int32)
        by = magnitude * rate + (u >> 8) >> 8
        low, high = -bound * 256, bound * 256 + 255
    else:
        by = magnitude * rate + u >> 16
        low, high = -bound, bound
    new = tl.minimum(tl.maximum(theta - g * tl.where(negative, -by, by), low), high)
    if FINE:
        tl.store(fractions + i, (new & 255).to(tl.uint8), mask=i < n)
        new = new >> 8
    tl.store(weights + i, new.to(tl.int8), mask=i < n)


@triton.jit(do_not_specialize=(*NOT_SPECIALIZED, *SPARSE_ARGUMENTS))
def sparse_sweep(
    table,
    rows: "i32",
    key_low: "u32",
    key_high: "u32",
    step: "u32",
    stream: "u32",
    threshold: "i32",
    multiplier: "i32",
    bound: "i32",
    times: "i32",
    g: "i32",
    rate: "i32",
    MOVES: tl.constexpr,
    FINE: tl.constexpr,
    ROWS: tl.constexpr,
):
    """`ezo.int8.perturb.shift_` and `update_` of the tensors of a table.

    A row's second address is the fractions'. ``times`` of an update is what it restores.
    """
    row = row_of(table, rows, 5)
    weights = tl.load(row + 1).to(tl.pointer_type(tl.int8))
    fractions = tl.load(row + 2).to(tl.pointer_type(tl.uint8))
    n, tensor = tl.load(row + 3), tl.load(row + 4).to(tl.uint32)
    first = (tl.program_id(0) - tl.load(row)).to(tl.int64) * ROWS
    group = first + tl.arange(0, ROWS).to(tl.int64)[:, None]
    lane = tl.arange(0, 64).to(tl.int64)[None, :]
    step, stream = step.to(tl.uint32), stream.to(tl.uint32)
    k0, k1 = key_low.to(tl.uint32), key_high.to(tl.uint32)
    c0, c1, c2, c3 = philox((group * 64 + lane).to(tl.uint32), tensor, step, stream, k0, k1)
    noise, move = (threshold, multiplier, bound), (times, g, rate, MOVES)
    for half in tl.static_range(2):
        i = group * 512 + half * 256 + lane
        low = 16 * half
        x0, x1 = (c0 >> low & 0xFFFF).to(tl.int32), (c1 >> low & 0xFFFF).to(tl.int32)
        x2, x3 = (c2 >> low & 0xFFFF).to(tl.int32), (c3 >> low & 0xFFFF).to(tl.int32)
        sparse_visit(weights, fractions, n, i, x0, noise, move, FINE)
        sparse_visit(weights, fractions, n, i + 64, x1, noise, move, FINE)
        sparse_visit(weights, fractions, n, i + 128, x2, noise, move, FINE)
        sparse_visit(weights, fractions, n, i + 192, x3, noise, move, FINE)
