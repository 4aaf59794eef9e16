"""What no noise moves and a step changes all the same: it rides along whole, at a step.

Such are the BP part's weights, the layers of node perturbation, which learn from their inputs, and
buffers such as batch norm's statistics. Of weights that noise moves, those ride along one by one
that are so large that sweeps round them: a tensor of their places, whose name ends in `AT`, and one
of their values, whose name ends in `TO`. The body is JSON, deflated, with each tensor's name, type,
shape and size as it lies there; then the tensors' bytes, each deflated.
"""

import math
import struct
import zlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ezo.journal import columns, records
from ezo.journal.weights import as_bytes

AT, TO = "\0at", "\0to"
MOST_BYTES = 1 << 26  # of a tensor that the initial weights lack, or have smaller


def pack(step: int, tensors: Mapping[str, Tensor]) -> bytes:
    """The body of a tail that is so after ``step`` steps."""
    about = [[name, str(t.dtype).partition(".")[2], list(t.shape)] for name, t in tensors.items()]
    deflated = [zlib.compress(as_bytes(t), 6) for t in tensors.values()]
    return columns.joined([struct.pack("<Q", step), records.text(about), *deflated])


def step(body: bytes) -> int:
    """After how many steps it is so."""
    found: int = struct.unpack("<Q", columns.parted(body)[0])[0]
    return found


def put(body: bytes, tensors: dict[str, Tensor]) -> None:
    """Give tensors what rides along.

    Raises:
        ValueError: there is more of a tensor than it can hold.
        LookupError: elements of one that is not among them.
    """
    found = {}
    deflated = columns.parted(body)[2:]
    for (name, word, shape), part in zip(about(body), deflated, strict=True):
        kind: Any = getattr(torch, word)
        if not isinstance(kind, torch.dtype):
            raise ValueError(f"expected a type of numbers, got {word}")
        own = tensors.get(name.removesuffix(AT).removesuffix(TO))
        held = (
            own.numel() * (8 if name.endswith(AT) else own.element_size()) if own is not None else 0
        )
        size = math.prod(shape) * kind.itemsize
        if not 0 <= size <= max(2 * held, MOST_BYTES):
            raise ValueError(f"expected {name} of about {held:,} bytes, got {size:,}")
        flat = torch.frombuffer(bytearray(columns.inflated(part, size)), dtype=torch.uint8)
        found[name] = flat.view(kind).view(shape)
    for name, t in found.items():
        if name.endswith(AT):
            p = tensors[name.removesuffix(AT)]
            own = torch.view_as_real(p) if p.is_complex() else p
            values = found[name.removesuffix(AT) + TO]
            own.view(-1)[t.to(own.device)] = values.to(own.device)
        elif not name.endswith(TO):
            tensors[name] = t.to(tensors[name].device) if name in tensors else t


def about(body: bytes) -> list[list[Any]]:
    """Name, type and shape of each tensor."""
    found: list[list[Any]] = records.value(bytes(columns.parted(body)[1]))
    return found
