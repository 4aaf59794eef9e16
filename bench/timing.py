"""The one instrument for seconds: visits to steps in turn, each step checked before it is timed.

A visit does a step some times and keeps the seconds of each. A round visits A B .. B A, the next
one the other way round, so that a drift of the machine's speed meets all alike: compare within a
round, by ratios. On a CUDA device a step lies between two events in the device's own line of work,
which nothing waits for until a visit ends; elsewhere between two readings of a clock.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WARM_UP_STEPS = 3
VISIT_STEPS = 2  # of a visit at least

Step = Callable[[], Any]


class Clock:
    """Moments on a device, and the seconds between them.

    ``name`` is one of `CLOCKS`, which are the processor's.

    Raises:
        ValueError: the device is a CUDA one, and the clock is not ``wall``.
    """

    def __init__(self, device: str = "cpu", name: str = "wall") -> None:
        self._device = torch.device(device)
        self._cuda, self._read = self._device.type == "cuda", CLOCKS[name]
        if self._cuda and name != "wall":
            raise ValueError(
                f"expected the clock wall on {device}, whose steps CUDA events time, got {name}: "
                "it sees the processor alone; leave it out"
            )

    def now(self) -> Any:
        """This moment; on a CUDA device when it gets here, and nothing waits for it."""
        if not self._cuda:
            return self._read()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def wait(self) -> None:
        """Until a CUDA device has done what it was given."""
        if self._cuda:
            torch.cuda.synchronize(self._device)

    def seconds(self, spans: Sequence[tuple[Any, Any]]) -> list[float]:
        """Of each from a moment to a later one. A CUDA device is waited for, once."""
        self.wait()
        if self._cuda:
            return [start.elapsed_time(end) / 1e3 for start, end in spans]
        return [end - start for start, end in spans]


def check(name: str, step: Step) -> None:
    """Warm up. A loss that is not within (0, 100), of no working step, is an AssertionError."""
    losses = [float(step()) for _ in range(WARM_UP_STEPS)]
    if not all(0 < loss < 100 for loss in losses):  # NaN is not
        raise AssertionError(f"{name}: expected losses in (0, 100) before timing, got {losses}")


def visit(step: Step, times: int, device: str = "cpu", clock: str = "wall") -> list[float]:
    """Seconds of each of some steps, by `Clock`; the device is waited for at both ends of all."""
    by = Clock(device, clock)
    by.wait()
    spans = []
    for _ in range(times):
        started = by.now()
        step()
        spans.append((started, by.now()))
    return by.seconds(spans)


def turns(visits: Mapping[str, Callable[[], float]], rounds: int) -> list[dict[str, list[float]]]:
    """What the two visits of a round gave, by name, for each round A B .. B A, B A .. A B, ...

    >>> from itertools import count
    >>> clock = count()
    >>> turns({"a": clock.__next__, "b": clock.__next__}, rounds=2)
    [{'a': [0, 3], 'b': [1, 2]}, {'a': [5, 6], 'b': [4, 7]}]
    """
    found = []
    for n in range(rounds):
        order = list(visits)[:: 1 if n % 2 == 0 else -1]
        taken: dict[str, list[float]] = {name: [] for name in visits}
        for name in (*order, *reversed(order)):
            taken[name].append(visits[name]())
        found.append(taken)
    return found


def in_turn(
    steps: Mapping[str, Step],
    device: str,
    rounds: int,
    visit_seconds: float,
    least_steps: int = VISIT_STEPS,
    clock: str = "wall",
) -> dict[str, list[float]]:
    """Mean seconds of each of some steps, whose losses are checked: a sample for each round.

    A visit to a step, of which a round has two, is about ``visit_seconds`` long, and of
    ``least_steps`` steps at least; seconds are by `Clock`.
    """

    def mean(step: Step, times: int) -> float:
        return statistics.fmean(visit(step, times, device, clock))

    visits = {}
    for name, step in steps.items():
        check(name, step)
        times = max(least_steps, round(visit_seconds / mean(step, least_steps)))
        visits[name] = functools.partial(mean, step, times)
    found = turns(visits, rounds)
    return {name: [statistics.fmean(taken[name]) for taken in found] for name in steps}


def interval(samples: torch.Tensor, resamples: int = 2000) -> tuple[float, float]:
    """95 % bootstrap interval of the median."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(0, len(samples), (resamples, len(samples)), generator=generator)
    medians = samples[chosen].median(dim=1).values
    low, high = medians.quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high
