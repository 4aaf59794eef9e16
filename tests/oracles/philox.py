"""The noise stream, slow and obvious: Python integers, one counter at a time, then float64.

Written from Salmon et al. 2011 and from the mapping that ``ezo.noise`` documents; no code of ezo.
"""

import math

import numpy as np

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox4x32_10(counter, key):
    """Four words from a counter of four words and a key of two."""
    c, k = list(counter), list(key)
    for _ in range(10):
        hi0, lo0 = divmod(MULTIPLIERS[0] * c[0], 2**32)
        hi1, lo1 = divmod(MULTIPLIERS[1] * c[2], 2**32)
        c = [hi1 ^ c[1] ^ k[0], lo1, hi0 ^ c[3] ^ k[1], lo0]
        k = [(k[0] + WEYL[0]) % 2**32, (k[1] + WEYL[1]) % 2**32]
    return tuple(c)


def words_of(i, seed, step, tensor, stream):
    """The four words of the counter that element i belongs to, and which of them is i's."""
    group, word, lane = i // 256, i % 256 // 64, i % 64
    counter = (64 * group + lane, tensor, step, stream)
    return philox4x32_10(counter, (seed % 2**32, seed // 2**32)), word


def element(noise, i, seed, step, tensor, stream):
    """Element i of a tensor's noise, in float64."""
    if noise in ("gaussian-16", "rademacher-1"):
        return of_part(noise, i, seed, step, tensor, stream)
    w, word = words_of(i, seed, step, tensor, stream)
    if noise == "rademacher":
        return -1.0 if w[word] >= 2**31 else 1.0
    if noise == "uniform":
        return (unit(w[word]) - 0.5) * 2 * math.sqrt(3)
    pair = w[0:2] if word < 2 else w[2:4]
    radius = math.sqrt(-2 * math.log(unit(pair[0])))
    return radius * (math.cos(angle(pair[1])) if word % 2 == 0 else math.sin(angle(pair[1])))


def of_part(noise, i, seed, step, tensor, stream):
    """Element i, of a kind that cuts each word into parts, its lowest bits for the first group."""
    parts = 2 if noise == "gaussian-16" else 32
    group, within = divmod(i, 256)
    w, word = words_of(group // parts * 256 + within, seed, step, tensor, stream)
    part = w[word] // 2 ** (32 // parts * (group % parts)) % 2 ** (32 // parts)
    if parts == 32:
        return 1.0 - 2.0 * part
    t = (part + 0.5) / 2**16 - 0.5
    powers = 2.142845392227173, 19.853418350219727, -188.13473510742188, 635.1478271484375
    return sum(c * t ** (2 * k + 1) for k, c in enumerate(powers))


def unit(word):
    """In (0, 1): the upper 23 bits, at the middle of their interval."""
    return (word // 2**9 + 0.5) / 2**23


def angle(word):
    """Lower 30 bits, signed: within +-pi/4. Bit 30: mirrored at the diagonal. Bit 31: turned."""
    low = word % 2**30
    a = (low - 2**30 if low >= 2**29 else low) / 2**30 * math.pi / 2
    if word // 2**30 % 2 == 1:
        a = math.pi / 2 - a
    return a + math.pi if word >= 2**31 else a


def draw(noise, seed, step, tensor, stream, size):
    """The first ``size`` elements: float64, (size,)."""
    return np.array([element(noise, i, seed, step, tensor, stream) for i in range(size)])
