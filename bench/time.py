"""A step's time by phase: perturb, forward, loss, backward, update; beside inference and full BP.

Three steps are timed in turn in one process, A B C C B A: the method's, a pass of inference, and a
step of full BP. The ratios are over rounds. The phases are those of the method's step, each call
timed where it is made; on CUDA the device is waited for before the clock is read, at every phase.
"""

import dataclasses
import functools
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn, optim

from bench.grid import FLOPS_PER_SECOND, START_SECONDS, flops
from bench.workload import Workload
from ezo import perturb
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp", "full-bp-checkpoint")
PHASES = ("perturb", "forward", "loss", "backward", "update")
ROUNDS = 11
VISIT_SECONDS, VISIT_STEPS = 0.05, 2  # a visit takes at least both
PHASE_STEPS = 30
WARM_UP_STEPS = 3
SMOKE = {"ROUNDS": 2, "VISIT_SECONDS": 0.001, "PHASE_STEPS": 2}

Step = Callable[[], Any]


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Workload]:
    """Every method on every model."""
    return [
        Workload(model, method, batch_size) for model in models for method in methods or METHODS
    ]


def measure(case: Workload) -> list[Row]:
    """Median seconds of the step and of each phase, and ratios, with interquartile ranges.

    ``step_seconds``; ``perturb_seconds`` and the other phases, and ``other_seconds``, which is the
    rest of the step: these are seconds a step, all calls of a phase together.
    ``step_over_inference`` and ``step_over_full_bp`` are step times over those of one pass and of
    full BP. A method that is not installed is one row that says so.
    """
    workloads = {
        "step": case,
        "inference": _beside(case, "inference"),
        "full_bp": _beside(case, "full-bp"),
    }
    try:
        model, _ = prepared = case.prepare()
    except ModuleNotFoundError as error:
        return [case.row("step_seconds", None, "s", f"not installed: {error.name}")]
    steps: dict[str, Step] = {"step": prepared[1]}
    for name in ("inference", "full_bp"):
        steps[name] = workloads[name].prepare()[1]
    losses = [float(steps["step"]()) for _ in range(WARM_UP_STEPS)]
    if not all(math.isfinite(loss) and 0 < loss < 100 for loss in losses):
        raise AssertionError(f"{case.name}: expected finite losses before timing, got {losses}")
    seconds = in_turn(steps, case.synchronise, ROUNDS, VISIT_SECONDS)
    found = [_spread(case, "step_seconds", seconds["step"], "s")]
    for name in ("inference", "full_bp"):
        ratios = [a / b for a, b in zip(seconds["step"], seconds[name], strict=True)]
        found.append(_spread(case, f"step_over_{name}", ratios, "1"))
    by_phase = phases(model, steps["step"], PHASE_STEPS, case.synchronise)
    return found + [_spread(case, f"{p}_seconds", samples, "s") for p, samples in by_phase.items()]


def in_turn(
    steps: dict[str, Step],
    synchronise: Step,
    rounds: int,
    visit_seconds: float,
    least_steps: int = VISIT_STEPS,
) -> dict[str, list[float]]:
    """Seconds of a step for each of some steps, a sample for each round A B .. B A.

    Args:
        steps: by name.
        synchronise: waits for the device.
        rounds: how many.
        visit_seconds: a visit to a step, of which a round has two, is about so long.
        least_steps: of a visit, however long they take.
    """

    def visit(step: Step, times: int) -> float:
        synchronise()
        started = time.perf_counter()
        for _ in range(times):
            step()
        synchronise()
        return (time.perf_counter() - started) / times

    times = {}
    for name, step in steps.items():
        visit(step, WARM_UP_STEPS)
        times[name] = max(least_steps, round(visit_seconds / visit(step, least_steps)))
    samples: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        spent = dict.fromkeys(steps, 0.0)
        for name in (*steps, *reversed(steps)):
            spent[name] += visit(steps[name], times[name]) / 2
        for name, seconds in spent.items():
            samples[name].append(seconds)
    return samples


def phases(model: nn.Module, step: Step, steps: int, synchronise: Step) -> dict[str, list[float]]:
    """Seconds of each phase of a step, and of what is left, a sample for each step.

    Args:
        model: whose forward pass the step calls.
        step: one step on ``model``; its loss function is a module.
        steps: how many.
        synchronise: waits for the device.
    """
    spent = dict.fromkeys((*PHASES, "other"), 0.0)
    samples: dict[str, list[float]] = {phase: [] for phase in spent}
    with ExitStack() as timed:
        for phase, owner, name in _calls(model):
            timed.enter_context(_timed(spent, phase, owner, name, synchronise))
        for _ in range(steps):
            spent.update(dict.fromkeys(spent, 0.0))
            synchronise()
            started = time.perf_counter()
            step()
            synchronise()
            whole = time.perf_counter() - started
            spent["other"] = whole - sum(spent[phase] for phase in PHASES)
            for phase, seconds in spent.items():
                samples[phase].append(seconds)
    return samples


def _calls(model: nn.Module) -> list[tuple[str, Any, str]]:
    """(phase, owner, name of its function) of what a step calls; none calls another."""
    return [
        ("perturb", perturb.Sweeper, "shift"),
        ("forward", model, "forward"),
        ("loss", nn.CrossEntropyLoss, "forward"),
        ("backward", Tensor, "backward"),
        ("update", perturb.Sweeper, "update"),
        ("update", optim.SGD, "step"),
    ]


@contextmanager
def _timed(
    spent: dict[str, float], phase: str, owner: Any, name: str, synchronise: Step
) -> Iterator[None]:
    """Within, the time of every call is added to its phase's."""
    function, own = getattr(owner, name), name in vars(owner)

    @functools.wraps(function)
    def timed(*args: Any, **kwargs: Any) -> Any:
        synchronise()
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            synchronise()
            spent[phase] += time.perf_counter() - started

    setattr(owner, name, timed)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)


def _beside(case: Workload, method: str) -> Workload:
    return dataclasses.replace(case, method=method)


def _spread(case: Workload, metric: str, samples: list[float], unit: str) -> Row:
    low, middle, high = statistics.quantiles(samples, n=4)
    note = f"median of {len(samples)}; quartiles {low:.4g} to {high:.4g}"
    return case.row(metric, middle, unit, note)


def seconds(case: Workload) -> float:
    """About how long a cell takes."""
    step = 4 * flops(case) / FLOPS_PER_SECOND
    visits = 2 * ROUNDS * max(VISIT_SECONDS, VISIT_STEPS * step)
    return START_SECONDS + 3 * visits + (PHASE_STEPS + 9) * step
