"""Columns of numbers as few bytes; what is read back is what was written.

A column is a byte that names its form, and the form's bytes. Of the forms that can hold it the
shortest is taken:

    deltas     differences between neighbours, zigzag, 7 bits a byte, deflated: of what stays the
               same or changes evenly, some 12 bytes whatever the length
    bits       non-negative integers in as many bits as the largest needs
    ternary    signs -1, 0, 1: five a byte, 1.6 bits each
    sparse     signs: one bit each, 1 for +1, and the places of the zeros as a column of deltas
    planes     floats, each xor the one before, byte by byte of their place, deflated
    raw        floats as they are, little-endian

What is deflated is inflated up to what the reader expects, however much a damaged file holds.
"""

import struct
import zlib
from collections.abc import Sequence

import numpy as np

Bytes = bytes | memoryview


def integers(values: Sequence[int]) -> bytes:
    """Integers of 0 or more, below 2^63."""
    column = np.asarray(values, np.int64)
    width = int(column.max()).bit_length() if len(column) else 0
    bits = (column[:, None] >> np.arange(width)) & 1
    packed = bytes([width]) + np.packbits(bits.astype(np.uint8), bitorder="little").tobytes()
    return _shortest({"deltas": _deltas(column), "bits": packed})


def signs(values: Sequence[int]) -> bytes:
    """Of -1, 0 and 1."""
    column = np.asarray(values, np.int64)
    digits = np.zeros(-(-len(column) // 5) * 5, np.int64)
    digits[: len(column)] = column + 1
    ternary = (digits.reshape(-1, 5) @ 3 ** np.arange(5)).astype(np.uint8).tobytes()
    zeros = _deltas(np.flatnonzero(column == 0))
    plus = np.packbits(column > 0, bitorder="little").tobytes()
    sparse = struct.pack("<I", len(zeros)) + zeros + plus
    return _shortest({"ternary": ternary, "sparse": sparse})


def floats(values: Sequence[float] | np.ndarray, wide: bool) -> bytes:
    """Of 64 bits where ``wide``, else of 32, to which they are rounded."""
    column = np.asarray(values, "<f8" if wide else "<f4")
    raw = column.tobytes()
    words = column.view("<u8" if wide else "<u4")
    changes = np.concatenate([words[:1], words[1:] ^ words[:-1]])
    planes = changes.view(np.uint8).reshape(-1, column.itemsize).T.tobytes()
    return _shortest({"raw": raw, "planes": zlib.compress(planes, 9)})


def read_integers(column: Bytes, n: int) -> list[int]:
    """``n`` integers.

    Raises:
        ValueError: the column does not hold so many.
    """
    form, body = _FORMS[column[0]], column[1:]
    if form == "deltas":
        return _expect(_undeltas(body, n), n).tolist()
    width = body[0]
    if width > 63:
        raise ValueError(f"expected numbers of at most 63 bits, got {width}")
    if len(body) != 1 + -(-n * width // 8):
        raise ValueError(f"expected a column of {n} numbers, got {len(body)} bytes of {width} bits")
    bits = np.unpackbits(np.frombuffer(body[1:], np.uint8), bitorder="little", count=n * width)
    found: list[int] = (bits.reshape(n, width).astype(np.int64) @ (1 << np.arange(width))).tolist()
    return found


def read_signs(column: Bytes, n: int) -> list[int]:
    """``n`` signs. Raises as `read_integers`."""
    form, body = _FORMS[column[0]], column[1:]
    if form == "ternary":
        packed = np.frombuffer(body, np.uint8).astype(np.int64)
        digits = packed[:, None] // 3 ** np.arange(5) % 3
        return (_expect(digits.reshape(-1)[:n], n) - 1).tolist()
    (size,) = struct.unpack_from("<I", body)
    zeros, plus = _undeltas(body[4 : 4 + size], n), np.frombuffer(body[4 + size :], np.uint8)
    found = np.unpackbits(plus, bitorder="little", count=n).astype(np.int64) * 2 - 1
    found[zeros] = 0
    return _expect(found, n).tolist()


def read_floats(column: Bytes, n: int, wide: bool) -> list[float]:
    """``n`` floats. Raises as `read_integers`."""
    kind, size = ("<f8", 8) if wide else ("<f4", 4)
    form, body = _FORMS[column[0]], column[1:]
    if form == "planes":
        planes = np.frombuffer(inflated(body, n * size), np.uint8).reshape(size, -1)
        words = np.ascontiguousarray(planes.T).view("<u8" if wide else "<u4").reshape(-1)
        body = np.bitwise_xor.accumulate(words).tobytes()
    return _expect(np.frombuffer(body, kind), n).tolist()


def joined(columns: Sequence[bytes]) -> bytes:
    """Columns one after the other, each with its length before it."""
    return b"".join(struct.pack("<I", len(column)) + column for column in columns)


def parted(body: Bytes) -> list[memoryview]:
    """What was joined."""
    found, rest = [], memoryview(body)
    while rest:
        (size,) = struct.unpack_from("<I", rest)
        found.append(rest[4 : 4 + size])
        rest = rest[4 + size :]
    return found


def inflated(body: Bytes, most: int) -> bytes:
    """What was deflated, of ``most`` bytes or fewer.

    Raises:
        ValueError: there are more, or something follows.
        zlib.error: it was not deflated, or is damaged.
    """
    reader = zlib.decompressobj()
    found = reader.decompress(body, most + 1)
    if len(found) > most:
        raise ValueError(f"expected at most {most:,} bytes when inflated, got more")
    if not reader.eof or reader.unused_data:
        raise ValueError("expected deflated bytes and no more, got a part or bytes behind")
    return found


_FORMS = ("deltas", "bits", "ternary", "sparse", "planes", "raw")
_DELTA_BYTES = 10  # of a difference at most: 64 bits, 7 a byte


def _shortest(forms: dict[str, bytes]) -> bytes:
    name = min(forms, key=lambda name: len(forms[name]))
    return bytes([_FORMS.index(name)]) + forms[name]


def _deltas(column: np.ndarray) -> bytes:
    change = np.diff(column, prepend=0)
    zigzag = (change << 1) ^ (change >> 63)
    out = bytearray()
    for value in zigzag.tolist():
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return zlib.compress(bytes(out), 9)


def _undeltas(body: Bytes, most: int) -> np.ndarray:
    values, value, shift = [], 0, 0
    for byte in inflated(body, most * _DELTA_BYTES):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            values.append((value >> 1) ^ -(value & 1))
            value = shift = 0
    return np.cumsum(np.asarray(values, np.int64))


def _expect(found: np.ndarray, n: int) -> np.ndarray:
    if len(found) != n:
        raise ValueError(f"expected a column of {n} numbers, got {len(found)}")
    return found
