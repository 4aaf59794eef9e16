"""The parts of 32-bit little-endian ELF files that measuring needs."""

import struct
from dataclasses import dataclass
from pathlib import Path

_SYMTAB, _PROGBITS, _NOBITS = 2, 1, 8
_ALLOC, _WRITE = 2, 1


@dataclass(frozen=True)
class Symbol:
    """Attributes:
    name, address, bytes: as linked.
    defined: whether this file defines it.
    """

    name: str
    address: int
    bytes: int
    defined: bool


@dataclass(frozen=True)
class Section:
    name: str
    address: int
    bytes: int
    allocated: bool
    writable: bool
    filled: bool


class Elf:
    """A linked program or an object file."""

    def __init__(self, path: Path) -> None:
        self._raw = raw = path.read_bytes()
        if raw[:6] != b"\x7fELF\x01\x01":
            raise ValueError(f"{path}: expected a 32-bit little-endian ELF file")
        (self._segments_at, sections_at) = struct.unpack_from("<II", raw, 28)
        (self._segments,) = struct.unpack_from("<H", raw, 44)
        count, names = struct.unpack_from("<HH", raw, 48)
        heads = [struct.unpack_from("<10I", raw, sections_at + 40 * i) for i in range(count)]
        self.sections = [
            Section(
                self._text(heads[names][4] + head[0]),
                head[3],
                head[5],
                bool(head[2] & _ALLOC),
                bool(head[2] & _WRITE),
                head[1] != _NOBITS,
            )
            for head in heads
        ]
        self.symbols = [
            Symbol(self._text(heads[head[6]][4] + name), value, size, place != 0)
            for head in heads
            if head[1] == _SYMTAB
            for name, value, size, _, place in struct.iter_unpack(
                "<IIIHH", raw[head[4] : head[4] + head[5]]
            )
        ]

    def _text(self, at: int) -> str:
        return self._raw[at : self._raw.index(b"\0", at)].decode()

    def address(self, name: str) -> int:
        """Of a function or variable; a Thumb function's is odd."""
        return next(s.address for s in self.symbols if s.name == name and s.defined)

    def undefined(self) -> set[str]:
        """Symbols that another file must define."""
        return {s.name for s in self.symbols if s.name and not s.defined}

    def loads(self) -> list[tuple[int, bytes]]:
        """(address, bytes) of everything to be put into memory."""
        heads = [
            struct.unpack_from("<8I", self._raw, self._segments_at + 32 * i)
            for i in range(self._segments)
        ]
        return [
            (address, self._raw[at : at + size])
            for kind, at, address, _, size, _, _, _ in heads
            if kind == 1 and size
        ]

    def flash(self) -> int:
        """Bytes of code and constants."""
        return sum(s.bytes for s in self.sections if s.allocated and not s.writable)

    def ram(self) -> int:
        """Bytes of .data and .bss, and whatever else is written."""
        return sum(s.bytes for s in self.sections if s.allocated and s.writable)
