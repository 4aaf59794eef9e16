"""The noise stream and the sweeps as Triton kernels: `ezo.noise` and `ezo.perturb`, to the bit.

One launch sweeps all tensors of a table. A row of the table, int64, is a tensor:

    first program, address, address of the result, elements, number in the stream, shape, strides

(the last two only where elements don't lie in row-major order). A program takes ``ROWS`` times
``UNIT`` groups of 256 elements, as tiles of (rows, 64 lanes), one for each of Philox's four words.

Multiplications and additions stay apart (``enable_fp_fusion=False``), so that all devices round
alike. Values that a step computes on the device come by address, which excludes the plain argument.

Index letters: c counter, w word, i element.
"""

import triton
import triton.language as tl

from ezo.kernels.triton import INTERPRETED

FILL, SHIFT, UPDATE, RESTORE, PERTURB, LEARN = map(tl.constexpr, range(6))
GAUSSIAN, RADEMACHER, UNIFORM, GAUSSIAN_16, RADEMACHER_1 = map(tl.constexpr, range(5))
ROUNDING = tl.constexpr(1 << 30)  # see ezo.perturb
NOT_SPECIALIZED = ("rows", "key_low", "key_high", "step", "stream")
ONE_TENSOR = ("elements", "number")
TRUNCATES = tl.constexpr(INTERPRETED)  # its float32 to bfloat16, where hardware rounds


@triton.jit
def philox(c0, tensor, step, stream, k0, k1):
    """Philox 4x32-10: four words of each counter."""
    c1, c2, c3 = tl.zeros_like(c0) + tensor, tl.zeros_like(c0) + step, tl.zeros_like(c0) + stream
    multiply_a = tl.full((), 0xD2511F53, tl.uint32)
    multiply_b = tl.full((), 0xCD9E8D57, tl.uint32)
    for _ in tl.static_range(10):
        a, b = tl.umulhi(c0, multiply_a), tl.umulhi(c2, multiply_b)
        low_a, low_b = c0 * multiply_a, c2 * multiply_b
        c0, c2 = b ^ c1 ^ k0, a ^ c3 ^ k1
        c1, c3 = low_b, low_a
        k0 += tl.full((), 0x9E3779B9, tl.uint32)
        k1 += tl.full((), 0xBB67AE85, tl.uint32)
    return c0, c1, c2, c3


@triton.jit
def unit(w):
    return ((w >> 9).to(tl.float32) + 0.5) * 1.1920928955078125e-07


@triton.jit
def minus_two_log(u):
    bits = u.to(tl.int32, bitcast=True) - 0x3F3504F3
    e = (bits >> 23).to(tl.float32)
    f = ((bits & 0x007FFFFF) + 0x3F3504F3).to(tl.float32, bitcast=True) - 1.0
    q = f * 0.20383448898792267 + -0.3204875886440277
    q = q * f + 0.3427425622940063
    q = q * f + -0.3984900712966919
    q = q * f + 0.4996653497219086
    q = q * f + -0.6666849255561829
    q = q * f + 1.0
    q = q * f + -2.0
    return q * f + e * -1.3862943649291992


@triton.jit
def box_muller(w_radius, w_angle):
    r = tl.sqrt_rn(minus_two_log(unit(w_radius)))
    x = (w_angle << 2).to(tl.int32, bitcast=True).to(tl.float32) * 3.6572951981e-10
    y = x * x
    s = (y * 0.008152992464601994 + -0.16662833094596863) * (y * x) + x
    c = y * -0.0013652449706569314 + 0.041661277413368225
    c = (c * y + -0.5) * y + 1.0
    r = tl.where((w_angle >> 31) == 1, -r, r)
    mirror = ((w_angle >> 30) & 1) == 1
    return r * tl.where(mirror, s, c), r * tl.where(mirror, c, s)


@triton.jit
def sign(bit):
    return 1.0 - 2.0 * bit.to(tl.float32)


@triton.jit
def quantile(half):
    t = (half.to(tl.float32) + 0.5) * 1.52587890625e-05 - 0.5
    y = t * t
    z = y * 635.1478271484375 + -188.13473510742188
    return ((z * y + 19.853418350219727) * y + 2.142845392227173) * t


@triton.jit
def numbers(c0, c1, c2, c3, part, KIND: tl.constexpr):
    """Four words, or a part of each, to four numbers: `ezo.noise.draw`."""
    if KIND == GAUSSIAN:
        z0, z1 = box_muller(c0, c1)
        z2, z3 = box_muller(c2, c3)
    elif KIND == RADEMACHER:
        z0, z1, z2, z3 = sign(c0 >> 31), sign(c1 >> 31), sign(c2 >> 31), sign(c3 >> 31)
    elif KIND == UNIFORM:
        z0, z1 = (unit(c0) - 0.5) * 3.4641016151, (unit(c1) - 0.5) * 3.4641016151
        z2, z3 = (unit(c2) - 0.5) * 3.4641016151, (unit(c3) - 0.5) * 3.4641016151
    elif KIND == GAUSSIAN_16:
        low = part % 2 * 16
        z0, z1 = quantile((c0 >> low) & 0xFFFF), quantile((c1 >> low) & 0xFFFF)
        z2, z3 = quantile((c2 >> low) & 0xFFFF), quantile((c3 >> low) & 0xFFFF)
    else:
        low = part % 32
        z0, z1, z2, z3 = (
            sign((c0 >> low) & 1),
            sign((c1 >> low) & 1),
            sign((c2 >> low) & 1),
            sign((c3 >> low) & 1),
        )
    return z0, z1, z2, z3


@triton.jit
def snap(x, TYPE: tl.constexpr):
    """To the grid of the type, halves to even: `ezo.perturb.GRID`. 16 bits have none."""
    if TYPE == tl.float32:
        x = nearest(x * 4194304.0, 8388608.0) * 2.384185791015625e-07
    elif TYPE == tl.float64:
        x = nearest(x * 2251799813685248.0, 4503599627370496.0) * 4.440892098500626e-16
    return x


@triton.jit
def nearest(x, whole):
    """From ``whole`` on, 2^23 or 2^52, all numbers are whole; adding it makes a lesser one so."""
    size = tl.abs(x)
    rounded = (size + whole) - whole
    return tl.where(size < whole, tl.where(x < 0, -rounded, rounded), x)


@triton.jit
def stochastic(x, u, TYPE: tl.constexpr):
    """float32 to a number of 16 bits, up or down by 16 random bits: `ezo.perturb.stochastic`."""
    if TYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        return ((bits + u) & 0xFFFF0000).to(tl.float32, bitcast=True)
    size = tl.abs(x)
    small = tl.where(size < 6.103515625e-05, 6.103515625e-05, 0.0)  # float16's least normal number
    bits = (size + small).to(tl.uint32, bitcast=True)
    held = ((bits + (u >> 3)) & 0xFFFFE000).to(tl.float32, bitcast=True) - small
    return tl.where(x < 0, -held, held)


@triton.jit
def places(i, row, RANK: tl.constexpr):
    """Where elements i, in row-major order, lie from the first of all."""
    if RANK == 0:
        return i
    at = tl.zeros_like(i)
    rest = i
    for d in tl.static_range(RANK):
        n = tl.load(row + 5 + RANK - 1 - d)
        at += rest % n * tl.load(row + 5 + 2 * RANK - 1 - d)
        rest = rest // n
    return at


@triton.jit
def row_of(table, rows, COLUMNS: tl.constexpr):
    """The last row whose first program is not after this one."""
    program = tl.program_id(0)
    low, size = program * 0, program * 0 + rows
    while size > 1:
        half = size // 2
        first = tl.load(table + (low + half) * COLUMNS)
        low = tl.where(first <= program, low + half, low)
        size -= half
    return table + low * COLUMNS


@triton.jit
def swept(theta, z, eps, times, rate, decay, u, OP: tl.constexpr, TYPE: tl.constexpr):
    """A weight after a sweep, in the type to compute in."""
    if OP == FILL:
        return z
    if OP == SHIFT or OP == PERTURB:
        return snap(theta, TYPE) + times * snap(eps * z, TYPE)
    if OP == LEARN:
        return stochastic(theta - (rate * z + decay * theta), u, TYPE)
    e = snap(eps * z, TYPE)
    if OP == RESTORE:  # a weight that was shifted is on the grid
        old = theta + e
    else:
        old = snap(theta, TYPE)
    return old + (snap(rate * z - decay * old, TYPE) - e)


@triton.jit
def visit(base, to, n, i, row, z, eps, times, rate, decay, u, how: tl.constexpr):
    """Sweep elements i."""
    OP: tl.constexpr = how[0]
    TYPE: tl.constexpr = how[1]
    RANK: tl.constexpr = how[2]
    NUMBER: tl.constexpr = tl.float64 if TYPE == tl.float64 else tl.float32
    at = places(i, row, RANK)
    target = i if OP == PERTURB else at  # what is made lies in row-major order
    theta = z
    if OP != FILL:
        theta = tl.load(base + at, mask=i < n)
    new = swept(theta.to(NUMBER), z.to(NUMBER), eps, times, rate, decay, u, OP, TYPE)
    if TRUNCATES and TYPE == tl.bfloat16:
        bits = new.to(tl.uint32, bitcast=True)
        bits += 0x7FFF + (bits >> 16 & 1)
        new = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    tl.store(to + target, new.to(TYPE), mask=i < n)


@triton.jit
def value(plain, at):
    """An argument, or what lies at its address."""
    if at is not None:
        return tl.load(at)
    return tl.full((), plain, tl.float64)


@triton.jit
def tiles(base, to, n, row, c, keys, eps, times, rate, decay, how: tl.constexpr):
    """All groups of a program, whose first counter is that of row 0 and lane 0 of c's tile."""
    tensor, step, stream, k0, k1 = keys
    OP: tl.constexpr = how[0]
    KIND: tl.constexpr = how[3]
    SHARED: tl.constexpr = how[4]
    UNIT: tl.constexpr = how[5]
    HALVES: tl.constexpr = 2 if UNIT > 1 else 1
    counter, lane = c  # (rows, 1) groups of words, (1, 64)
    if SHARED > 1:
        c0, c1, c2, c3 = philox((counter * 64 + lane).to(tl.uint32), tensor, step, stream, k0, k1)
    r0 = (counter * 0 + lane).to(tl.uint32)
    r1, r2, r3 = r0, r0, r0
    for pair in range(UNIT // HALVES):
        if OP == LEARN:
            at = counter * (UNIT // 2) + pair
            rounding = stream + ROUNDING
            r0, r1, r2, r3 = philox(
                (at * 64 + lane).to(tl.uint32), tensor, step, rounding.to(tl.uint32), k0, k1
            )
        for half in tl.static_range(HALVES):
            group = counter * UNIT + pair * HALVES + half
            if SHARED == 1:
                c0, c1, c2, c3 = philox(
                    (group * 64 + lane).to(tl.uint32), tensor, step, stream, k0, k1
                )
            z0, z1, z2, z3 = numbers(c0, c1, c2, c3, pair * HALVES + half, KIND)
            i = group * 256 + lane
            u = 16 * half
            visit(base, to, n, i, row, z0, eps, times, rate, decay, (r0 >> u) & 0xFFFF, how)
            visit(base, to, n, i + 64, row, z1, eps, times, rate, decay, (r1 >> u) & 0xFFFF, how)
            visit(base, to, n, i + 128, row, z2, eps, times, rate, decay, (r2 >> u) & 0xFFFF, how)
            visit(base, to, n, i + 192, row, z3, eps, times, rate, decay, (r3 >> u) & 0xFFFF, how)


@triton.jit(do_not_specialize=(*NOT_SPECIALIZED, *ONE_TENSOR))
def sweep(
    table,
    rows: "i32",
    key_low: "u32",
    key_high: "u32",
    step: "u32",
    stream: "u32",
    eps: "fp64",
    times: "fp64",
    rate: "fp64",
    decay: "fp64",
    step_at,
    eps_at,
    rate_at,
    decay_at,
    theta,
    result,
    elements: "i64",
    number: "u32",
    OP: tl.constexpr,
    TYPE: tl.constexpr,
    KIND: tl.constexpr,
    SHARED: tl.constexpr,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    RANK: tl.constexpr,
):
    """A sweep of `ezo.perturb` over the tensors of a table, all of one type; or where there is no
    table, of one tensor, whose result goes elsewhere."""
    row = table
    if table is None:
        base, to, n, tensor = theta, result, elements, number.to(tl.uint32)
        before = 0
    else:
        row = row_of(table, rows, 5 + 2 * RANK)
        base = tl.load(row + 1).to(tl.pointer_type(TYPE))
        to = tl.load(row + 2).to(tl.pointer_type(TYPE))
        n, tensor, before = tl.load(row + 3), tl.load(row + 4).to(tl.uint32), tl.load(row)
    step = step.to(tl.uint32)
    if step_at is not None:
        step += tl.load(step_at).to(tl.uint32)
    NUMBER: tl.constexpr = tl.float64 if TYPE == tl.float64 else tl.float32
    eps, rate, decay = value(eps, eps_at), value(rate, rate_at), value(decay, decay_at)
    if OP == UPDATE or OP == RESTORE:
        rate = eps - rate
    eps, times = eps.to(NUMBER), value(times, None).to(NUMBER)
    rate, decay = rate.to(NUMBER), decay.to(NUMBER)
    first = (tl.program_id(0) - before).to(tl.int64) * ROWS
    counter = first + tl.arange(0, ROWS).to(tl.int64)[:, None]
    lane = tl.arange(0, 64).to(tl.int64)[None, :]
    c = (counter, lane)
    k0, k1, stream = key_low.to(tl.uint32), key_high.to(tl.uint32), stream.to(tl.uint32)
    keys = (tensor, step, stream, k0, k1)
    how: tl.constexpr = (OP, TYPE, RANK, KIND, SHARED, UNIT)
    tiles(base, to, n, row, c, keys, eps, times, rate, decay, how)
