"""A step's time by phase: perturb, forward, backward, update; against inference and full BP.

Three steps are timed in turn in one process (`bench.timing`): the method's, a pass of inference,
and a step of full BP. The ratios are over rounds. The phases are the ranges that the method's step
emits (`ezo.phases`), in every precision; on CUDA events stand at each one's ends, and nothing is
waited for within a step.
"""

import dataclasses
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bench.timing import Clock, Step, in_turn
from bench.workload import Workload
from ezo.phases import PHASES, listening
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp", "full-bp-checkpoint")
ROUNDS, VISIT_SECONDS, PHASE_STEPS = 11, 0.05, 30
COST = (6 * ROUNDS * VISIT_SECONDS, PHASE_STEPS + 9 + 6 * ROUNDS)
SMOKE = {"rounds": 2, "visit_seconds": 0.001, "phase_steps": 2}


def measure(
    case: Workload,
    rounds: int = ROUNDS,
    visit_seconds: float = VISIT_SECONDS,
    phase_steps: int = PHASE_STEPS,
) -> list[Row]:
    """Median seconds of the step and of each phase, and ratios, with interquartile ranges.

    A phase's seconds, and ``other_seconds``, the rest of the step, are those of all its calls in a
    step. A method that is not installed is one row that says so, and so are the phases of a step
    that emits none.
    """
    try:
        steps = {"step": case.prepare()[1]}
    except ModuleNotFoundError as error:
        return [case.row("step_seconds", None, "s", f"not installed: {error.name}")]
    for name, method in {"inference": "inference", "full_bp": "full-bp"}.items():
        steps[name] = dataclasses.replace(case, method=method).prepare()[1]
    seconds = in_turn(steps, case.device, rounds, visit_seconds)
    found = [_spread(case, "step_seconds", seconds["step"], "s")]
    for name in ("inference", "full_bp"):
        ratios = [a / b for a, b in zip(seconds["step"], seconds[name], strict=True)]
        found.append(_spread(case, f"step_over_{name}", ratios, "1"))
    by_phase = phases(steps["step"], phase_steps, case.device)
    if not any(any(by_phase[phase]) for phase in PHASES):
        return [*found, case.row("other_seconds", None, "s", "the step emits no phases")]
    return found + [_spread(case, f"{p}_seconds", samples, "s") for p, samples in by_phase.items()]


def phases(step: Step, steps: int, device: str) -> dict[str, list[float]]:
    """Seconds of each phase, and of what is left, a sample for each of so many ``steps``."""
    clock = Clock(device)
    named: list[str] = []
    spans: list[tuple[Any, Any]] = []

    @contextmanager
    def timed(phase: str) -> Iterator[None]:
        started = clock.now()
        try:
            yield
        finally:
            named.append(phase)
            spans.append((started, clock.now()))

    samples: dict[str, list[float]] = {phase: [] for phase in (*PHASES, "other")}
    with listening(timed):
        for _ in range(steps):
            named.clear()
            spans.clear()
            clock.wait()
            started = clock.now()
            step()
            *parts, whole = clock.seconds([*spans, (started, clock.now())])
            spent = dict.fromkeys(PHASES, 0.0)
            for phase, seconds in zip(named, parts, strict=True):
                spent[phase] += seconds
            for phase, seconds in {**spent, "other": whole - sum(parts)}.items():
                samples[phase].append(seconds)
    return samples


def _spread(case: Workload, metric: str, samples: list[float], unit: str) -> Row:
    low, middle, high = statistics.quantiles(samples, n=4)
    note = f"median of {len(samples)}; quartiles {low:.4g} to {high:.4g}"
    return case.row(metric, middle, unit, note)
