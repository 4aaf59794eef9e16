"""A run again, from its initial weights and its journal: no data, no passes."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezo.elastic import runs
from ezo.int8 import perturb as sparse
from ezo.int8.perturb import SparseNoise
from ezo.journal import chunk, records, tail
from ezo.journal.weights import digest
from ezo.perturb import Sweeper

KINDS = ("ezo.ElasticZO", "ezo.int8.ElasticZO")


@dataclass(frozen=True)
class Replayed:
    """What a replay ended with.

    Attributes:
        tensors: the weights, of the initial ones' names.
        steps: of the run, done again.
        whole: whether these are the weights that the run ended with, by their digest; None where
            the journal does not say, of a run that goes on or was killed.
        note: what is wrong with the journal and what that means for the weights, or nothing.
    """

    tensors: dict[str, Tensor]
    steps: int
    whole: bool | None
    note: str


@torch.no_grad()
def replay(path: Path | str, init: Mapping[str, Tensor]) -> Replayed:
    """The weights that a journal's run ended with, to the same bits.

    Where the file is damaged or ends within a record, they are those of the last step before that
    which can be repeated.

    Args:
        path: of the journal.
        init: the weights that the run began with; they stay as they are.

    Raises:
        ValueError: the file is no journal, or its run began with other weights.
        OSError: it can't be read.
    """
    path = Path(path)
    found, note = records.read(path)
    if not found or found[0].kind != "H":
        raise ValueError(f"{note or f'{path}: expected a header, got none'}; begin the run again")
    with records.understood(path):
        told = records.value(found[0].body)
        kind, names = _words(told["kind"], told["init"])[0], [_words(*of) for of in told["names"]]
        if not all(names):
            raise ValueError("a tensor without a name")
    if kind not in KINDS:
        raise ValueError(
            f"{path}: expected a run of {' or '.join(KINDS)}, got {kind}; give its journal"
        )
    tensors = {name: t.contiguous().clone() for name, t in _begun(path, told, init).items()}
    with records.understood(path):
        tails = [record.body for record in found if record.kind == "T"]
        steps = _sweep(found, tensors, tail.step(tails[-1]) if tails else None)
        if tails:
            tail.put(tails[-1], tensors)
        last = [records.value(record.body) for record in found[-1:] if record.kind == "E"]
        ends = _words(*(of["final"] for of in last))
        final = digest(tensors, names) == ends[0] if ends else None
        rides = not tails and _riding(told, found)
    if final is False:
        note = (
            f"{path}: expected the digest {ends[0][:16]} in the end, got another: something else "
            "moved the weights while it was written, or a sweep rounded"
        )
    elif note:
        note += f"; the weights are those of step {steps:,}"
        note += ", but for what noise does not move, which stays as it began" if rides else ""
    _alias(tensors, told, init)
    return Replayed(tensors, steps, final, note)


def _words(*values: Any) -> list[str]:
    """Raises:
    TypeError: one is no text.
    """
    if strange := [value for value in values if not isinstance(value, str)]:
        raise TypeError(f"{strange[0]!r:.40} in place of text")
    return list(values)


def _begun(path: Path, told: dict[str, Any], init: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The initial weights by the journal's names; the others as they are called."""
    try:
        theirs = digest(init, told["names"])
    except LookupError as error:
        raise ValueError(
            f"{path}: expected the weights that its run began with, got others: {error}; give those"
        ) from error
    if theirs != told["init"]:
        raise ValueError(
            f"{path}: expected the weights that its run began with, of digest {told['init'][:16]}, "
            f"got others, of {theirs[:16]}; give those"
        )
    first = {names[0]: next(n for n in names if n in init) for names in told["names"]}
    other = set(init) - {name for names in told["names"] for name in names}
    return {**{name: init[of] for name, of in first.items()}, **{n: init[n] for n in other}}


def _alias(tensors: dict[str, Tensor], told: dict[str, Any], init: Mapping[str, Tensor]) -> None:
    """Give each tensor the names that it had in the initial weights."""
    for names in told["names"]:
        value = tensors.pop(names[0])
        tensors.update({name: value for name in names if name in init})


def _sweep(found: list[records.Record], tensors: dict[str, Tensor], until: int | None) -> int:
    """Make the updates of all chunks, up to a step; how many steps are done then."""
    fractions: dict[str, Tensor] = {}
    steps = 0
    apply: Callable[[Any], None] = _nothing
    seed = 0
    for record in found:
        if record.kind == "S":
            told = records.value(record.body)
            apply, seed = _sweeps(told, tensors, fractions), told["seed"]
        elif record.kind == "C":
            if until is not None and steps >= until:
                break
            for update in chunk.unpack(record.body, seed):
                apply(update)
            steps = chunk.numbers(record.body).end
    return steps


def _nothing(update: Any) -> None:
    """Before any set-up there is nothing to move."""


def _sweeps(
    told: dict[str, Any], tensors: dict[str, Tensor], fractions: dict[str, Tensor]
) -> Callable[[Any], None]:
    """What makes an update of the weights as a set-up names them."""
    own = [tensors[name] for name in told["tensors"]]
    if not isinstance(told["noise"], str):
        return _sparse_sweeps(told, own, fractions)
    sweepers = []
    for group, first, last in _groups(told["groups"]):
        for number, run in runs(own[first:last], told["free"][first:last], first):
            sweepers.append((group, Sweeper(run, noise=told["noise"], first_tensor=number)))
    rows = [tensors[name][row] for name, row in told["held"].items()]
    held = [(row, row.clone()) for row in rows]

    def apply(update: Any) -> None:
        for group, sweeper in sweepers:
            eps, rate, decay = update.groups[group]
            sweeper.update(update[:3], eps, rate, decay, restore=False)
        for row, value in held:
            row.copy_(value)

    return apply


def _sparse_sweeps(
    told: dict[str, Any], own: list[Tensor], fractions: dict[str, Tensor]
) -> Callable[[Any], None]:
    noise = SparseNoise(*told["noise"])
    for name, p in zip(told["tensors"], own, strict=True):
        if told["fraction"] and name not in fractions:
            fractions[name] = torch.full_like(p, sparse.HALF, dtype=torch.uint8)
    moving = []
    for number, run in runs(own, told["free"]):
        names = told["tensors"][number : number + len(run)]
        moving.append((number, run, [fractions[n] for n in names] if fractions else None))

    def apply(update: Any) -> None:
        for number, run, finer in moving:
            sparse.update_(run, noise, update[:3], (update.g, update.rate, 0), finer, number)

    return apply


def _groups(of: list[int]) -> Iterator[tuple[int, int, int]]:
    """Each group with the first of its tensors and the one after its last."""
    for group in dict.fromkeys(of):
        first = of.index(group)
        yield group, first, first + of.count(group)


def _riding(told: dict[str, Any], found: list[records.Record]) -> bool:
    """Whether the run had more than the weights that noise moves."""
    moved = {name for r in found if r.kind == "S" for name in records.value(r.body)["tensors"]}
    return any(names[0] not in moved for names in told["names"])
