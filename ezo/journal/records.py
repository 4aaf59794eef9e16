"""The file of a journal: records, each with a checksum that covers all before it.

    file     "EZOJ", version (1 byte), records
    record   kind (1 byte), length of the body (uint32), body, CRC-32 (uint32)

All is little-endian. A record's CRC goes on from that of the record before, so that one that is
lost or moved is noticed like a bit that flipped. A file that ends within a record is whole up to
the record before: that is how a run that was killed leaves it. Kinds:

    H   header, JSON, deflated: what began it, and the digest of the initial weights
    S   set-up, JSON, deflated: what the next chunks' noise moves; again whenever that changes
    C   chunk: consecutive steps (`ezo.journal.chunk`)
    T   the tail: tensors that no noise moves, at a step (`ezo.journal.tail`)
    E   end, JSON, deflated: the steps, and the digest of the final weights
"""

import contextlib
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ezo.journal.columns import inflated

MAGIC, VERSION = b"EZOJ", 1
START = MAGIC + bytes([VERSION])
MOST_TEXT = 1 << 26  # bytes of JSON in a record
OVERHEAD = 9  # bytes of a record beside its body
_HEAD = struct.Struct("<cI")
_CRC = struct.Struct("<I")


class Record(NamedTuple):
    """A record that is whole: where it ends in the file, and the CRC that the next goes on from."""

    kind: str
    body: bytes
    end: int
    crc: int


def pack(kind: str, body: bytes, crc: int) -> tuple[bytes, int]:
    """A record's bytes after one whose CRC was ``crc``, and its own CRC."""
    head = _HEAD.pack(kind.encode(), len(body)) + body
    crc = zlib.crc32(head, crc)
    return head + _CRC.pack(crc), crc


def read(path: Path) -> tuple[list[Record], str]:
    """The records of a file that are whole, and what is wrong after them, or nothing.

    Raises:
        ValueError: the file is no journal, or of another version.
        OSError: it can't be read.
    """
    data = path.read_bytes()
    if data[:4] != MAGIC:
        raise ValueError(
            f"{path}: expected a journal, which begins with EZOJ, got a file that begins with "
            f"{data[:4]!r}; give what `ezo train --journal` or ezo.journal.Journal wrote"
        )
    if data[4:5] != START[4:]:
        raise ValueError(
            f"{path}: expected a journal of version {VERSION}, got version {data[4:5].hex()}; read "
            "it with the ezo that wrote it"
        )
    found: list[Record] = []
    at, crc = len(START), zlib.crc32(START)
    while at < len(data):
        start = at + _HEAD.size
        kind, size = _HEAD.unpack_from(data, at) if start <= len(data) else (b"", 1 << 32)
        end = start + size + _CRC.size
        if end > len(data):
            return found, (
                f"{path}: expected a whole record at byte {at:,}, got a file that ends within it"
            )
        crc = zlib.crc32(memoryview(data)[at : start + size], crc)
        if (crc,) != _CRC.unpack_from(data, start + size):
            return found, (
                f"{path}: expected a whole record at byte {at:,}, got one whose CRC differs"
            )
        found.append(Record(kind.decode("latin-1"), data[start : start + size], end, crc))
        at = end
    return found, ""


_MEANT_OTHERWISE = AttributeError, LookupError, RuntimeError, TypeError, ValueError


@contextlib.contextmanager
def understood(path: Path) -> Iterator[None]:
    """Within, records that are whole are read as what `ezo.journal` writes.

    Raises:
        ValueError: they hold something else.
    """
    try:
        yield
    except (*_MEANT_OTHERWISE, struct.error, zlib.error) as error:
        raise ValueError(
            f"{path}: expected records that ezo wrote, got others ({type(error).__name__}: "
            f"{error}); write the journal again"
        ) from error


def text(value: Any) -> bytes:
    """JSON, deflated."""
    return zlib.compress(json.dumps(value, separators=(",", ":")).encode(), 9)


def value(body: bytes) -> Any:
    """What `text` was given."""
    return json.loads(inflated(body, MOST_TEXT))
