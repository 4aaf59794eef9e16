"""The noise stream: counter-based, the same bits on every device, any part of it drawn alone.

Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) turns a
counter and a key into four 32-bit words. Ours is indexed by (seed, step, tensor, element):

    key      = (seed's low 32 bits, seed's high 32 bits)
    counter  = (64 group + lane, tensor, step, stream)
    element i of a tensor: group = i // 256, word = i % 256 // 64, lane = i % 64

A kind that needs less than a word for a number serves several groups with the words of one: where
they are n (`SHARED`), group // n says which words, and a number's bits start at 32 / n (group % n).

``stream`` tells apart the draws of one step (the queries, for one). This file is the definition, in
plain torch, for any device; ``csrc/philox.hpp`` and ``noise.cpp`` are the same, compiled, and tests
hold them together bit by bit. Floating-point operations here are kept apart (no fused
multiply-add), since the two must round alike.
"""

import torch
from torch import Tensor

ABOUT = {
    "gaussian": "Normal, by Box and Muller's method.",
    "rademacher": "-1 or 1, by a word's highest bit.",
    "uniform": "Between minus and plus the root of 3.",
    "gaussian-16": "Nearly normal, from 16 bits; some three times cheaper than gaussian.",
    "rademacher-1": "-1 or 1, from one bit; the cheapest.",
}
NOISES = tuple(ABOUT)
SHARED = {"gaussian-16": 2, "rademacher-1": 32}  # groups that one group of words serves
Device = torch.device | str
GROUP = 256  # elements per group: 64 lanes of four words
_LANES = 64
_LOW = 0xFFFFFFFF


def words(
    seed: int, step: int, tensor: int, stream: int, first: int, last: int, device: Device
) -> Tensor:
    """Words for the groups ``first`` to ``last`` - 1: int64 below 2^32, (groups, 4, 64 lanes).

    The seed is below 2^64; step, tensor and stream are below 2^32.
    """
    groups = last - first
    c0 = torch.arange(first * _LANES, last * _LANES, device=device) & _LOW
    c1 = torch.full_like(c0, tensor)
    c2 = torch.zeros_like(c0).add_(step)  # the step may lie on the device
    c3 = torch.full_like(c0, stream)
    k0, k1 = seed & _LOW, seed >> 32
    for _ in range(10):
        a = c0.mul_(0xD2511F53)  # int64 wraps around, its 64 bits are the product's
        b = c2.mul_(0xCD9E8D57)
        c0 = (b >> 32).bitwise_and_(_LOW).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (a >> 32).bitwise_and_(_LOW).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = b.bitwise_and_(_LOW), a.bitwise_and_(_LOW)
        k0, k1 = (k0 + 0x9E3779B9) & _LOW, (k1 + 0xBB67AE85) & _LOW
    return torch.stack([c.view(groups, _LANES) for c in (c0, c1, c2, c3)], dim=1)


def draw(
    noise: str,
    seed: int,
    step: int,
    tensor: int,
    stream: int,
    first: int,
    last: int,
    device: Device = "cpu",
) -> Tensor:
    """Noise of mean 0 and variance 1 for the groups ``first`` to ``last`` - 1 of a tensor.

    It is float32, ((last - first) * 256,): element i of the tensor at i - 256 first. The kinds:

        gaussian      normal, by Box and Muller's method
        rademacher    -1 or 1, by a word's highest bit
        uniform       on +-sqrt(3)
        gaussian-16   nearly normal, from 16 bits: a polynomial near the quantiles, whose
                      distribution function is within 0.009 of the normal one; kurtosis 2.86,
                      largest 2.64. Some three times cheaper than ``gaussian``
        rademacher-1  -1 or 1, from one bit; the cheapest

    >>> draw("rademacher", seed=0, step=0, tensor=0, stream=0, first=0, last=1)[:4]
    tensor([ 1., -1.,  1., -1.])
    """
    if noise in SHARED:
        w = parts(SHARED[noise], seed, step, tensor, stream, first, last, device)
    else:
        w = words(seed, step, tensor, stream, first, last, device)
    if noise == "gaussian":
        pairs = [_box_muller(w[:, 0], w[:, 1]), _box_muller(w[:, 2], w[:, 3])]
        z = torch.stack([z for pair in pairs for z in pair], dim=1)
    elif noise == "rademacher":
        z = 1.0 - 2.0 * (w >> 31).to(torch.float32)
    elif noise == "uniform":
        z = (_unit(w) - 0.5) * 3.4641016151
    elif noise == "gaussian-16":
        z = _quantile(w)
    elif noise == "rademacher-1":
        z = 1.0 - 2.0 * w.to(torch.float32)
    else:
        raise ValueError(f"expected noise to be one of {', '.join(NOISES)}, got '{noise}'")
    return z.flatten()


def parts(
    shared: int,
    seed: int,
    step: int,
    tensor: int,
    stream: int,
    first: int,
    last: int,
    device: Device,
) -> Tensor:
    """A part of a word for each element, where ``shared`` groups have one group's words.

    Numbers of 32 / shared bits for the groups ``first`` to ``last`` - 1: int64, (groups, 4, 64).
    """
    begin, end = first // shared, -(-last // shared)
    group = torch.arange(first, last, device=device)
    of = words(seed, step, tensor, stream, begin, end, device)[group // shared - begin]
    bits = 32 // shared
    return (of >> (bits * (group % shared)).view(-1, 1, 1)).bitwise_and_((1 << bits) - 1)


def _quantile(half: Tensor) -> Tensor:
    """16 bits to a nearly normal number, odd in t = (half + 1/2) 2^-16 - 1/2, which is exact.

    The polynomial nearest to the normal quantile of t + 1/2 in mean square, of variance 1.
    """
    t = (half.to(torch.float32) + 0.5) * 2.0**-16 - 0.5
    y = t * t
    z = y * 635.1478271484375 + -188.13473510742188
    return ((z * y + 19.853418350219727) * y + 2.142845392227173) * t


def _unit(w: Tensor) -> Tensor:
    """Words to numbers in (0, 1), odd multiples of 2^-24, from their upper 23 bits: exact."""
    return ((w >> 9).to(torch.float32) + 0.5) * 2.0**-23


def _minus_two_log(u: Tensor) -> Tensor:
    """-2 ln u, relative error 3e-7: u = 2^e (1 + f), and a minimax polynomial in f."""
    bits = u.view(torch.int32) - 0x3F3504F3
    e = (bits >> 23).to(torch.float32)
    f = ((bits & 0x007FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    q = torch.full_like(f, 0.20383448898792267)
    first = (-0.3204875886440277, 0.3427425622940063, -0.3984900712966919, 0.4996653497219086)
    for coefficient in (*first, -0.6666849255561829, 1.0, -2.0):
        q = q * f + coefficient
    return q * f + e * -1.3862943649291992


def _box_muller(w_radius: Tensor, w_angle: Tensor) -> tuple[Tensor, Tensor]:
    """Two words to two standard normal numbers.

    The angle's lower 30 bits place it within [-pi/4, pi/4), bit 30 mirrors it at the diagonal,
    bit 31 turns it by half a circle.
    """
    # By way of float64, which rounds once: torch's float32 root is off by one bit at times.
    r = _minus_two_log(_unit(w_radius)).to(torch.float64).sqrt().to(torch.float32)
    x = (((w_angle << 34) >> 32).to(torch.float32)) * 3.6572951981e-10  # (pi / 2) 2^-32
    y = x * x
    s = (y * 0.008152992464601994 + -0.16662833094596863) * (y * x) + x
    c = y * -0.0013652449706569314 + 0.041661277413368225
    c = (c * y + -0.5) * y + 1.0
    r = torch.where(w_angle >> 31 == 1, -r, r)
    mirror = (w_angle >> 30) & 1 == 1
    return r * torch.where(mirror, s, c), r * torch.where(mirror, c, s)
