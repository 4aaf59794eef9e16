"""The state that a device saves, in Python: read to train on, written to send it one.

Little-endian, as ``runtime/ezo_state.c`` says: "EZO1", identity, steps and n, uint32 each; n int8
weights and, with a fraction, n uint8; a CRC-32 of all before.
"""

import struct
import zlib
from pathlib import Path

import numpy as np

from ezo.export.describe import describe, restore
from ezo.int8 import ElasticZO, Int8Tensor
from ezo.int8.network import Network

MAGIC = 0x314F5A45
_HEAD = struct.Struct("<4I")


def save(network: Network, optimizer: ElasticZO, x: Int8Tensor) -> bytes:
    """What a device would save that stands where this training stands."""
    problem = describe(network, optimizer, x)
    weights = problem.weights[problem.frozen :]
    head = _HEAD.pack(MAGIC, problem.identity, problem.steps, len(weights))
    body = head + weights.tobytes()
    if problem.fractions is not None:
        body += np.concatenate(problem.fractions).tobytes()
    return body + struct.pack("<I", zlib.crc32(body))


def load(state: bytes | str | Path, network: Network, optimizer: ElasticZO, x: Int8Tensor) -> None:
    """Give a network and its optimiser what a device saved; the next step is the device's next.

    Args:
        state: the bytes, or a file of them.
        network, optimizer, x: made as those that were exported.

    Raises:
        ValueError: the state is damaged, or another network's; nothing is changed.
    """
    body = Path(state).read_bytes() if isinstance(state, (str, Path)) else state
    if len(body) < _HEAD.size + 4 or _HEAD.unpack_from(body)[0] != MAGIC:
        raise ValueError(
            "expected a state that a device saved, which begins with EZO1, got other bytes; give "
            "what ezo_save wrote"
        )
    if zlib.crc32(body[:-4]) != struct.unpack("<I", body[-4:])[0]:
        raise ValueError("expected a whole state, got one whose CRC differs; save it again")
    problem = describe(network, optimizer, x)
    _, identity, steps, n = _HEAD.unpack_from(body)
    fine = problem.fractions is not None
    length = _HEAD.size + (2 if fine else 1) * n + 4
    if identity != problem.identity or n != problem.trained or len(body) != length:
        raise ValueError(
            "expected a state of this network, trained parts, noise and seed, got another's; make "
            "both as they were when the C was exported"
        )
    parts = body[_HEAD.size : -4]
    weights = np.frombuffer(parts[:n], np.int8)
    fraction = np.frombuffer(parts[n:], np.uint8) if fine else None
    restore(network, optimizer, steps, weights, fraction)
