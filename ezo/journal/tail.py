"""What no noise moves and a step changes all the same: it rides along whole, at a step.

Such are the BP part's weights, the layers of node perturbation, which learn from their inputs, and
buffers such as batch norm's statistics. The body is JSON, deflated, with each tensor's name, type,
shape and size as it lies there; then the tensors' bytes, each deflated.
"""

import struct
import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ezo.journal import columns, records
from ezo.journal.weights import as_bytes


def pack(step: int, tensors: Mapping[str, Tensor]) -> bytes:
    """The body of a tail that is so after ``step`` steps."""
    about = [[name, str(t.dtype).partition(".")[2], list(t.shape)] for name, t in tensors.items()]
    deflated = [zlib.compress(as_bytes(t), 6) for t in tensors.values()]
    return columns.joined([struct.pack("<Q", step), records.text(about), *deflated])


def step(body: bytes) -> int:
    """After how many steps it is so."""
    found: int = struct.unpack("<Q", columns.parted(body)[0])[0]
    return found


def unpack(body: bytes) -> dict[str, Tensor]:
    """The tensors by name."""
    _, about, *deflated = columns.parted(body)
    found = {}
    for (name, kind, shape), part in zip(records.value(bytes(about)), deflated, strict=True):
        flat = torch.frombuffer(bytearray(zlib.decompress(part)), dtype=torch.uint8)
        found[name] = flat.view(getattr(torch, kind)).view(shape)
    return found
