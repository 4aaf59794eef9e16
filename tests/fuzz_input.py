"""What `fuzz` makes input of: damaged bytes, bent trees, odd numbers; and what a target is."""

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ODD = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(10**400), 10**400, 0.5, -0.0, 1e308),
    *(
        math.inf,
        -math.inf,
        math.nan,
        "",
        "text",
        "1e400",
        "\x00",
        "\ud800",
        "../../etc",
        "x" * 5000,
    ),
    *([], {}, [[]], [0], {"a": {}}, {"": None}, [["a"]], {"tensor": "0"}, {"dict": [[[], 1]]}),
)
NUMBERS = (
    *(
        "0",
        "1",
        "-1",
        "-5",
        "00",
        "1_0",
        " 1",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "9" * 20,
        "9" * 400,
    ),
    *(
        "9" * 5000,
        "1.5",
        ".5",
        "5.",
        "٣",
        "½",
        "²",
        "0x10",
        "",
        " ",
        "\x00",
        "\ud800",
        "-",
        "--",
        "=",
        "%s",
        "{}",
    ),
)


@dataclass(frozen=True)
class Target:
    """Something that is parsed.

    Attributes:
        name: of it.
        weight: inputs of it, in ten thousand of all.
        make: puts an input into a folder; returns what `read` gets.
        read: reads it.
        sane: whether a value that was read is one.
    """

    name: str
    weight: int
    make: Callable[[random.Random, Path], Any]
    read: Callable[[Any], Any]
    sane: Callable[[Any], bool]


def damage(chance: random.Random, data: bytes, other: bytes = b"") -> bytes:
    """Flip bits, cut, splice, insert numbers, noise, nesting and what is no text."""
    for _ in range(chance.choice((1, 1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        kind = chance.randrange(9)
        if kind == 0 and at < len(data):
            data = data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :]
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + other[chance.randrange(len(other) + 1) :]
        elif kind == 3:
            number = chance.choice(
                (b"\xff" * 4, b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"\0" * 4, b"\x80")
            )
            data = data[:at] + number + data[at + len(number) * chance.randrange(2) :]
        elif kind == 4:
            data = data[:at] + chance.choice(NUMBERS).encode("utf-8", "surrogatepass") + data[at:]
        elif kind == 5:
            data = data[:at] + data[at : at + chance.randrange(64)] + data[at:]
        elif kind == 6:
            data = data[:at] + data[at + chance.randrange(64) :]
        elif kind == 7:
            data = (
                data[:at]
                + chance.choice((b"[", b'{"a":', b"[[", b'"', b"\n", b"\xc3\x28", b"\r\0"))
                * chance.choice((1, 1, 1, 20_000))
                + data[at:]
            )
        else:
            data = data[:at] + chance.randbytes(chance.randrange(64)) + data[at:]
    return noise(chance) if chance.randrange(50) == 0 else data


def noise(chance: random.Random) -> bytes:
    return chance.randbytes(chance.randrange(300))


def bend(chance: random.Random, value: Any) -> Any:
    """Another value of a tree: of another type, missing, renamed or odd somewhere."""
    if chance.randrange(4) == 0 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(ODD)
    if isinstance(value, list):
        at = chance.randrange(len(value))
        return (
            [*value[:at], bend(chance, value[at]), *value[at + 1 :]]
            if chance.randrange(4)
            else value[:at]
        )
    key = chance.choice(list(value))
    rest = {name: item for name, item in value.items() if name != key}
    kind = chance.randrange(6)
    if kind == 0:
        return rest
    return {**rest, "surprise" if kind == 1 else key: bend(chance, value[key])}


def text(chance: random.Random, value: Any) -> bytes:
    """JSON of a value, as it is, bent or damaged."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        value = bend(chance, value)
    data = json.dumps(value, ensure_ascii=chance.randrange(2) == 0).encode("utf-8", "surrogatepass")
    if chance.randrange(8) == 0 and data.startswith(b"{") and data.endswith(b"}"):
        data = data[:-1] + b", " + data[1:]  # every key twice
    return damage(chance, data, data) if chance.randrange(4) == 0 else data
