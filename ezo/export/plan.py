"""What every split of a network takes of a microcontroller: for `ezo plan --target mcu`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ezo.export import arena
from ezo.export.describe import Problem

CODE_BYTES = 16 * 1024  # of the runtime, at most
BATCHES = (1, 8, 32)


@dataclass(frozen=True)
class Split:
    """A row of the table.

    Attributes:
        method: ``full-zo``, ``elastic-k``, ``tail-only-k`` or ``full-bp``.
        fraction: whether trained weights have one.
        batch: examples a step.
        way: how the batch is run.
        ram_bytes: the arena, and room for the stack.
        flash_bytes: weights and code, at most.
        instructions: a step's on a Cortex-M4, roughly.
    """

    method: str
    fraction: bool
    batch: int
    way: str
    ram_bytes: int
    flash_bytes: int
    instructions: int


def splits(
    problem: Problem, batches: Iterable[int] = BATCHES, ram: int | None = None, dsp: bool = True
) -> list[Split]:
    """Every split that the runtime can train, each by the fastest way that fits ``ram``.

    Args:
        problem: a network (`ezo.export.describe.describe`); what trains its layers is varied.
        batches: examples a step.
        ram: bytes of the part's RAM; None for no bound. What does not fit is left out.
        dsp: whether the form with SMLAD may be chosen.
    """
    places = [i for i, stage in enumerate(problem.stages) if stage.weight is not None]
    linear = 0  # layers at the end that BP can train
    while linear < len(places) and problem.stages[places[-1 - linear]].kind == "Linear":
        linear += 1
        if any(s.kind == "MaxPool2d" or s.pool > 1 for s in problem.stages[places[-linear] :]):
            linear -= 1
            break
    n = len(problem.stages)
    methods = {"full-zo": (0, n)}
    for k in range(1, linear + 1):
        first = places[-k]
        if k < len(places):
            methods[f"elastic-{k}"] = (0, first)
        methods[f"tail-only-{k}" if k < len(places) else "full-bp"] = (first, first)
    found = []
    for method, (first_trained, first_bp) in methods.items():
        for fine in (True, False):
            asked = replace(problem, first_trained=first_trained, first_bp=first_bp)
            trained = [p for s in asked.stages[first_trained:] for p in s.parameters]
            parts = tuple(np.full(len(p), 128, np.uint8) for p in trained) if fine else None
            asked = replace(asked, fractions=parts)
            for batch in batches:
                try:
                    planned = arena.plan(asked, batch, ram, dsp=dsp)
                except arena.DoesNotFit:
                    continue
                found.append(
                    Split(
                        method,
                        fine,
                        batch,
                        planned.way.name,
                        planned.total + arena.STACK_BYTES,
                        len(problem.weights) + CODE_BYTES,
                        planned.instructions,
                    )
                )
    return found


def table(rows: Sequence[Split]) -> str:
    """The rows for people."""
    lines = [
        f"{'method':<12} {'fraction':>8} {'batch':>5}  {'way':<8} {'RAM KiB':>8} {'flash KiB':>9} "
        f"{'million instructions':>20}"
    ]
    for row in rows:
        lines.append(
            f"{row.method:<12} {8 if row.fraction else 0:>8} {row.batch:>5}  {row.way:<8} "
            f"{row.ram_bytes / 1024:>8.1f} {row.flash_bytes / 1024:>9.1f} "
            f"{row.instructions / 1e6:>20.1f}"
        )
    return "\n".join(lines)
