"""What streaming saves and costs: a step's bytes and time by chunk, over the whole batch's.

A method's step with its layers that record no gradient ``chunk`` examples at a time (`ezo.stream`)
beside the same step unstreamed, in fp32. Bytes are exact (`bench.memory`), over those of a whole
pass of inference; times are of the processor's own clock, which neighbours disturb less, in rounds
A B .. B A (`bench.timing`), over the step unstreamed. A chunk as long as the batch shows what the
rest of `ezo.stream` does, ReLU in place and maxima without indices. What can't be streamed, batch
norm in training, is a row that says why; inference of such a model is in evaluation.
"""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench.memory import heap_bytes, warm_peak_bytes
from bench.timing import check, turns, visit
from bench.workload import Workload
from ezo.rows import Row

MODELS = ("lenet5", "pointnet", "pointnet-bn")
METHODS = ("inference", "full-zo", "elastic-1")
CHUNKS = (32, 8, 6, 4, 1)
ROUNDS, STEPS = 7, 3
COST = (10.0, 2 * ROUNDS * STEPS * len(CHUNKS))
SMOKE = {"rounds": 2, "steps": 1, "chunks": (8,)}


@dataclass(frozen=True)
class Streaming(Workload):
    """A method's step on one batch, by chunks."""

    @property
    def name(self) -> str:
        return f"{super().name}-streaming"


def cases(model: str, method: str, batch_size: int) -> list[Streaming]:
    """A method on a model."""
    return [Streaming(model, method, batch_size)]


def measure(
    case: Streaming, chunks: tuple[int, ...] = CHUNKS, rounds: int = ROUNDS, steps: int = STEPS
) -> list[Row]:
    """For each chunk ``peak_tensor_bytes`` and ``heap_peak_bytes``, both over inference's, and
    ``step_over_whole``; for chunk 0 those of the step unstreamed.
    """
    chosen = (0, *(chunk for chunk in chunks if chunk <= case.batch_size))
    inference = _sizes(dataclasses.replace(case, method="inference"))
    found, able = [], []
    for chunk in chosen:
        one = dataclasses.replace(case, chunk=chunk)
        try:
            sizes = _sizes(one)
        except ValueError as error:
            found.append(case.row("peak_tensor_bytes", None, "B", str(error), chunk=chunk))
            continue
        able.append(one)
        metrics = ("peak_tensor_bytes", "heap_peak_bytes")
        for metric, size, floor in zip(metrics, sizes, inference, strict=True):
            found.append(case.row(metric, size, "B", chunk=chunk))
            note = f"{size:,} B over {floor:,} B"
            found.append(case.row(f"{metric}_over_inference", size / floor, "1", note, chunk=chunk))
    made = {one.chunk: _prepared(one)[1] for one in able}  # after, as a step counts all there is
    for chunk, ratios in _times(case, made, rounds, steps).items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        note = f"median of {len(ratios)}; quartiles {low:.3f} to {high:.3f}; processor's clock"
        found.append(case.row("step_over_whole", middle, "1", note, chunk=chunk))
    return found


def _times(
    case: Streaming, made: dict[int, Callable[[], Any]], rounds: int, steps: int
) -> dict[int, list[float]]:
    """Of each chunk's step, its time over the unstreamed step's in each round."""
    visits = {}
    for chunk, step in made.items():
        check(f"{case.name}, chunk {chunk}", step)
        seconds = functools.partial(visit, step, steps, case.synchronise, "cpu")
        visits[str(chunk)] = lambda seconds=seconds: statistics.median(seconds())
    found: dict[int, list[float]] = {chunk: [] for chunk in made if chunk}
    for taken in turns(visits, rounds):
        for chunk, ratios in found.items():
            ratios.append(sum(taken[str(chunk)]) / sum(taken["0"]))
    return found


def _prepared(case: Workload) -> tuple[nn.Module, Callable[[], Any]]:
    model, step = case.prepare()
    if case.method == "inference":
        model.eval()
    return model, step


def _sizes(case: Workload) -> tuple[int, int]:
    """Exact tensor bytes and the heap's, with nothing else alive."""
    model, step = _prepared(case)
    with torch.random.fork_rng(devices=[]):
        return warm_peak_bytes(model, step), heap_bytes(model, step)
