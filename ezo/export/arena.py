"""Where every byte of a step lies on the device, before anything is compiled.

A batch goes through the layers in segments: within one, an example at a time, so that only the
last layer's outputs lie there for the whole batch; where a layer's shift turns out wrong, its
segment is run again. One layer a segment (A) repeats least and needs most memory, all layers in one
(C) the other way round; between them is every cut. Windows (B) hold 12 bits of each output until
the shift is known, and seldom repeat anything.

Buffers that are never alive together share bytes: `place` puts them by their lives.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from ezo.export import kinds
from ezo.export.describe import LARGEST_BATCH, Problem

STATE_BYTES = 48  # EZO_STATE_BYTES, and a layer's share of it
SCALE_BYTES = 8
STACK_BYTES = 2048  # and whatever else is not the arena, where a part's RAM is given

# Instructions on a Cortex-M4 by gcc -O2, of single functions of LeNet-5's steps, counted as
# `python -m bench.mcu instructions` counts whole steps. tests/export/test_estimate.py compares the
# sum with the rows of reports/mcu.
SHIFTED = 28  # a weight of a sweep that shifts,
UPDATED = {False: 60, True: 40}  # and of one that updates, without and with a fraction
LOSS = 80  # a logit's loss
LOSS_ERROR = 620  # a logit's error
ERROR = 9  # a product of errors with a weight
DESCENT, DESCENT_PRODUCT = 100, 7  # a weight's update by BP, and of each example
NARROW = 23  # an output of a window made int8
WRONG = {False: 0.3, True: 0.002}  # how often a shift is wrong, without and with a window
MEASURED = 0.4  # how often the first layer of several in a segment is run before, for its shift


class DoesNotFit(ValueError):
    """A batch needs more RAM than there is."""


@dataclass(frozen=True)
class Buffer:
    """Bytes with a place in the arena: ``sizes[t]`` of them alive at time t."""

    name: str
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How a batch is run.

    Attributes:
        ends: for each stage, whether it ends a segment.
        windowed: for each stage, whether its outputs wait as 12 bits.
        dsp: room for the form with SMLAD.
    """

    ends: tuple[bool, ...]
    windowed: tuple[bool, ...]
    dsp: bool

    @property
    def name(self) -> str:
        """A, B, C as above, or what is between them."""
        letter = ("A" if all(self.ends) else "C") + ("B" if any(self.windowed) else "")
        return letter.replace("AB", "B") + ("" if self.dsp else " plain")


@dataclass(frozen=True)
class Arena:
    """A way to run a batch, and every buffer's place.

    Attributes:
        places: bytes from the arena's start, by the buffer's name.
        buffers: those placed.
        times: what happens at each time of the buffers' lives.
        total: bytes of the arena.
        instructions: of a step on a Cortex-M4, roughly.
    """

    way: Way
    batch: int
    places: dict[str, int]
    buffers: tuple[Buffer, ...]
    times: tuple[str, ...]
    total: int
    instructions: int


def plan(
    problem: Problem,
    batch: int,
    ram: int | None = None,
    *,
    dsp: bool = True,
    way: Way | None = None,
) -> Arena:
    """The fastest way that fits.

    Args:
        problem: the network.
        batch: examples a step.
        ram: bytes of the part's RAM, of which `STACK_BYTES` are left for the stack; None for no
            bound.
        dsp: whether the form with SMLAD may be chosen.
        way: this way, and no other.

    Raises:
        DoesNotFit: nothing fits; the message says what the smallest needs.
        ValueError: the batch is none, or a layer has no C form.
    """
    if not 1 <= batch <= LARGEST_BATCH:
        raise ValueError(f"expected a batch of 1 to {LARGEST_BATCH} examples, got {batch}")
    found = [(_instructions(problem, w, batch), w) for w in ([way] if way else ways(problem, dsp))]
    room = None if ram is None else ram - STACK_BYTES
    for instructions, candidate in sorted(found, key=lambda pair: (pair[0], pair[1].name)):
        buffers, times = _buffers(problem, candidate, batch)
        if room is not None and _peak(buffers) > room:
            continue
        places, total = place(buffers)
        if room is None or total <= room:
            return Arena(candidate, batch, places, buffers, times, total, instructions)
    least = min(_peak(_buffers(problem, candidate, batch)[0]) for _, candidate in found)
    raise DoesNotFit(
        f"expected at least {least + STACK_BYTES:,} bytes of RAM for batch {batch}, "
        f"{STACK_BYTES:,} of them for the stack, got {ram:,}; lower the batch, train without "
        "fraction, or freeze layers (tail-only)"
    )


def ways(problem: Problem, dsp: bool = True) -> list[Way]:
    """Every way to run a batch that the runtime knows."""
    n = len(problem.stages)
    free = min(n - 1, problem.first_bp - 1) if problem.first_bp else 0  # BP keeps its inputs
    found = []
    for cut in itertools.product((True, False), repeat=min(free, 8)):
        ends = (*cut, *[cut[-1] if cut else True] * (free - len(cut)), *[True] * (n - free))
        found.append((ends, (False,) * n))
        windows = tuple(end and i < n - 1 for i, end in enumerate(ends))
        if any(windows):
            found.append((ends, windows))
    return [Way(*way, has) for way in found for has in ((True, False) if dsp else (False,))]


def _buffers(problem: Problem, way: Way, batch: int) -> tuple[tuple[Buffer, ...], tuple[str, ...]]:
    """Everything that the step holds, and the times of their lives.

    A time is a segment while it runs, the loss, or a BP layer's backward.
    """
    stages, n = problem.stages, len(problem.stages)
    segment = [sum(way.ends[:i]) for i in range(n)]  # of a stage
    first_backward = segment[-1] + 2
    times = [
        " ".join(s.name for i, s in enumerate(stages) if segment[i] == k)
        for k in range(segment[-1] + 1)
    ]
    backward = {i: first_backward + n - 1 - i for i in range(problem.first_bp, n)}  # time of each
    times += ["loss", *(f"backward {stages[i].name}" for i in backward)][: 1 + len(backward)]
    whole = range(len(times))

    def alive(name: str, bytes_: int, first: int, last: int) -> Buffer:
        return Buffer(name, tuple(_four(bytes_) if first <= t <= last else 0 for t in whole))

    def always(name: str, bytes_: int) -> Buffer:
        return alive(name, bytes_, 0, len(times) - 1)

    found = [always("state", STATE_BYTES + SCALE_BYTES * n)]
    if problem.trains:
        found.append(always("weights", problem.trained))
        if problem.fractions is not None:
            found.append(always("fraction", problem.trained))
    if problem.first_trained < problem.first_bp:
        found.append(always("moves", 4 * problem.queries))
    if problem.first_bp == 0:
        found.append(alive("input", batch * math.prod(stages[0].inputs), 0, backward[0]))
    for i, stage in enumerate(stages):
        one, time = math.prod(stage.outputs), segment[i]
        if i == n - 1:
            found.append(alive("logits", 4 * batch * one, time, segment[-1] + 1))
        elif way.ends[i]:
            last = backward.get(i + 1, segment[i + 1])
            kept = alive(f"out {i}", batch * one, time, last)
            wide = _four(batch * one + (batch * one + 1) // 2) if way.windowed[i] else 0
            sizes = tuple(max(b, wide if t == time else 0) for t, b in enumerate(kept.sizes))
            found.append(Buffer(kept.name, sizes))
        else:
            found.append(alive(f"out {i}", one, time, time))
        if i in backward:  # written when the layer after it, or the loss, hands errors down
            found.append(alive(f"err {i}", batch * one, backward[i] - 1, backward[i]))
    scratch = [0] * len(times)
    for i, stage in enumerate(stages):
        need = kinds.find(stage).scratch(stage, way.dsp)
        scratch[segment[i]] = max(scratch[segment[i]], need)
    found.append(Buffer("scratch", tuple(scratch)))
    return tuple(found), tuple(times)


def _four(bytes_: int) -> int:
    return -(-bytes_ // 4) * 4


def _peak(buffers: Sequence[Buffer]) -> int:
    """Bytes alive at the worst time: no placement needs less."""
    return max(sum(b.sizes[t] for b in buffers) for t in range(len(buffers[0].sizes)))


def place(buffers: Sequence[Buffer]) -> tuple[dict[str, int], int]:
    """Each buffer's place, and the bytes of all: the best of a few orders, lowest gap first."""
    state, others = buffers[0], list(buffers[1:])
    steady = [b for b in others if min(b.sizes) > 0]
    moving = [b for b in others if min(b.sizes) == 0]
    orders = [
        sorted(moving, key=lambda b: -max(b.sizes)),
        sorted(moving, key=lambda b: -sum(b.sizes)),
        sorted(moving, key=lambda b: (-sum(1 for s in b.sizes if s), -max(b.sizes))),
        moving,
        moving[::-1],
    ]
    if len(moving) <= 6:
        orders += [list(order) for order in itertools.permutations(moving)]
    least = -(-_peak(buffers) // 8) * 8
    best: tuple[int, dict[str, int]] | None = None
    for order in orders:
        places: dict[str, int] = {}
        done: list[tuple[Buffer, int]] = []
        for buffer in [state, *steady, *order]:
            at = _lowest_gap(buffer, done)
            places[buffer.name] = at
            done.append((buffer, at))
        total = -(-max(at + max(b.sizes) for b, at in done) // 8) * 8
        if best is None or total < best[0]:
            best = total, places
        if total == least:
            break
    assert best is not None
    return best[1], best[0]


def _lowest_gap(buffer: Buffer, done: list[tuple[Buffer, int]]) -> int:
    for at in sorted({0, *(p + s for b, p in done for s in b.sizes if s)}):
        if not any(
            mine and theirs and at < p + theirs and p < at + mine
            for b, p in done
            for mine, theirs in zip(buffer.sizes, b.sizes, strict=True)
        ):
            return at
    raise AssertionError("there is always room behind all others")


def _instructions(problem: Problem, way: Way, batch: int) -> int:
    """Of a step on a Cortex-M4, roughly."""
    zo = problem.first_trained < problem.first_bp
    passes = 2 * problem.queries if zo else 1
    passes += zo and problem.first_bp < len(problem.stages) and problem.gradient == "unperturbed"
    each, again, right = 0.0, 0.0, 1.0
    segment: list[float] = []
    for i, stage in enumerate(problem.stages):
        cost = batch * kinds.find(stage).instructions(stage, way.dsp)
        each += cost
        segment.append(cost)
        last = i == len(problem.stages) - 1
        if not last and stage.weight is not None and (way.ends[i] or segment[1:]):
            right *= 1 - WRONG[way.windowed[i]]  # the first of several is measured
        if way.windowed[i]:
            each += NARROW * batch * math.prod(stage.outputs)
        if way.ends[i]:
            again += (1 - right) * sum(segment) / 2  # half of a pass, until it shows
            again += MEASURED * segment[0] if len(segment) > 1 else 0
            segment, right = [], 1.0
    logits = batch * math.prod(problem.stages[-1].outputs)
    total = passes * (each + again + LOSS * logits)
    if zo:
        total += _sweeps(problem)
    if problem.first_bp < len(problem.stages):
        total += LOSS_ERROR * logits
    for i in range(problem.first_bp, len(problem.stages)):
        weights = sum(map(len, problem.stages[i].parameters))
        total += weights * (DESCENT + DESCENT_PRODUCT * batch)
        total += weights * ERROR * batch if i > problem.first_bp else 0
    return int(total)


def _sweeps(problem: Problem) -> int:
    """Instructions of all shifts and updates of a step's ZO weights."""
    trained = problem.stages[problem.first_trained : problem.first_bp]
    weights = sum(len(p) for stage in trained for p in stage.parameters)
    shifts = 2 * problem.queries + problem.queries - 1
    return weights * (shifts * SHIFTED + problem.queries * UPDATED[problem.fractions is not None])
