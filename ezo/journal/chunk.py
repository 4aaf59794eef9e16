"""Consecutive steps of a run as columns: what each query's update of the weights was.

A chunk's columns (`ezo.journal.columns`) are

    numbers    the step after the last, the steps that updated, queries a step, how floats are kept
    steps      the number of each step that updated; one whose loss was not finite did not
    integers:  g, the sign of each update; its rate, in 2^-16
    floats:    for each group eps, eps - rate and decay of each update, of 32 bits; or of 64 bits
               eps, rate and decay

in the order in which they were applied. Integers in the sign form take 1 to 1.6 bits for a g, and
next to nothing for a rate that stays; with ``absolute``, whose rate is each step's own and at most
2^16, a query takes 18.6 bits at the most. A sweep over float32 rounds eps, eps - rate and decay to
32 bits before it uses them, so that these are enough; 64 bits are for float64 weights.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from ezo.int8.weights import Update as IntegerUpdate
from ezo.journal import columns
from ezo.optim import Update as FloatUpdate

Applied = tuple[int, list[Any]]  # a step's number, its updates
_NUMBERS = struct.Struct("<QIHB")
_NARROW, _WIDE = 4, 8  # bytes of a float
MOST_UPDATES = 1 << 24  # of a chunk


class Numbers(NamedTuple):
    """What stands at the head of a chunk."""

    end: int
    steps: int
    queries: int
    float_bytes: int


def pack(end: int, steps: Sequence[Applied], wide: bool) -> bytes:
    """The body of a chunk.

    Args:
        end: the number of steps of the run so far.
        steps: those that updated, each with as many updates, of its last query first.
        wide: whether floats need 64 bits.
    """
    updates = [update for _, of in steps for update in of]
    queries = len(steps[0][1]) if steps else 0
    found = [columns.integers([step for step, _ in steps])]
    if updates and isinstance(updates[0], IntegerUpdate):
        found += [
            columns.signs([u.g for u in updates]),
            columns.integers([u.rate for u in updates]),
        ]
    elif updates:
        groups = [zip(*of, strict=True) for of in zip(*(u.groups for u in updates), strict=True)]
        table = [np.asarray(column) for of in groups for column in of]  # eps, rate, decay, ...
        kept = table if wide else _narrowed(table)
        wide = kept is table
        found += [columns.floats(column, wide) for column in kept]
    numbers = _NUMBERS.pack(end, len(steps), queries, _WIDE if wide else _NARROW)
    return columns.joined([numbers, *found])


def numbers(body: bytes) -> Numbers:
    """The head of a chunk."""
    return Numbers(*_NUMBERS.unpack(columns.parted(body)[0]))


def unpack(body: bytes, seed: int) -> Iterator[Any]:
    """The updates of a chunk, in the order in which they were applied."""
    head, steps, *found = columns.parted(body)
    _, n, queries, float_bytes = _NUMBERS.unpack(head)
    if n * queries > MOST_UPDATES:
        raise ValueError(f"expected at most {MOST_UPDATES:,} updates a chunk, got {n * queries:,}")
    places = [
        (seed, step, query)
        for step in columns.read_integers(steps, n)
        for query in range(queries - 1, -1, -1)
    ]
    n *= queries
    if len(found) == 2:
        g, rate = columns.read_signs(found[0], n), columns.read_integers(found[1], n)
        for place, sign, by in zip(places, g, rate, strict=True):
            yield IntegerUpdate(*place, sign, by)
        return
    read = [columns.read_floats(column, n, float_bytes == _WIDE) for column in found]
    for i in range(1, len(read), 3) if float_bytes == _NARROW else ():
        read[i] = [eps - moved for eps, moved in zip(read[i - 1], read[i], strict=True)]
    groups = [zip(*read[i : i + 3], strict=True) for i in range(0, len(read), 3)]
    for (_, step, query), *own in zip(places, *groups, strict=True):
        yield FloatUpdate(seed, step, query, tuple(own))


def _narrowed(table: list[np.ndarray]) -> list[np.ndarray]:
    """What sweeps over float32 use, as float32; the table itself where that says less than it."""
    kept = [column.astype(np.float32).astype(np.float64) for column in table]
    for i in range(1, len(table), 3):
        eps, moved = kept[i - 1], (table[i - 1] - table[i]).astype(np.float32)
        kept[i] = moved.astype(np.float64)
        if (moved != (eps - (eps - kept[i])).astype(np.float32)).any():
            return table
    return kept
