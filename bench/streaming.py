"""What streaming saves and costs: a step's bytes and time by chunk, over the whole batch's.

A method's step with its layers that record no gradient ``chunk`` examples at a time (`ezo.stream`)
beside the same step unstreamed, in fp32 and int8. Bytes are exact (`bench.memory`), over those of a
whole pass of inference in the same precision; times are of the processor's own clock, which
neighbours disturb less (on CUDA of events), in rounds A B .. B A (`bench.timing`), over the step
unstreamed. A chunk as long as the batch shows what the rest of `ezo.stream` does, ReLU in place and
maxima without indices. What can't be streamed, batch norm in training, is a row that says why;
inference of such a model is in evaluation. A visit is one step of a model that takes long, and
several of another.
"""

import dataclasses
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from bench import grid
from bench.cuda import is_cuda
from bench.memory import high_water, warm_peak_bytes
from bench.timing import in_turn
from bench.workload import Workload
from ezo.rows import Row

MODELS = ("lenet5", "pointnet")
METHODS = ("inference", "full-zo", "elastic-1", "elastic-2")
BATCH_SIZES = {"pointnet": 8}  # a step stays well under a second on one core
PRECISIONS = ("fp32", "int8")
CHUNKS = (32, 8, 4, 1)
ROUNDS, VISIT_SECONDS = 5, 0.05
SMOKE = {"rounds": 2, "visit_seconds": 0.001, "chunks": (8,)}
SIZES_STEPS = 11  # of one measurement of bytes
STEP_FLOPS = 4  # of a step, over a forward pass's, at most


@dataclass(frozen=True)
class Streaming(Workload):
    """A method's step on one batch, by chunks."""

    @property
    def name(self) -> str:
        return f"{super().name}-streaming"


def cases(model: str, method: str, batch_size: int) -> list[Streaming]:
    """A method on a model in both precisions."""
    return [Streaming(model, method, batch_size, precision=precision) for precision in PRECISIONS]


def seconds(case: Streaming) -> float:
    """Of a cell: bytes at each chunk, and visits, two a round, to the whole and to each chunk."""
    step = STEP_FLOPS * grid.flops(case) / grid.FLOPS_PER_SECOND
    visit = max(step, VISIT_SECONDS)
    return grid.START_SECONDS + (len(CHUNKS) + 1) * (SIZES_STEPS * step + 2 * ROUNDS * visit)


def measure(
    case: Streaming,
    chunks: tuple[int, ...] = CHUNKS,
    rounds: int = ROUNDS,
    visit_seconds: float = VISIT_SECONDS,
) -> list[Row]:
    """For each chunk ``peak_tensor_bytes`` and ``heap_peak_bytes``, on CUDA
    ``allocated_peak_bytes``, both over inference's, and ``step_over_whole``; for chunk 0 those of
    the step unstreamed.
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
        metrics = ("peak_tensor_bytes", f"{high_water(case.device)[0]}_peak_bytes")
        for metric, size, floor in zip(metrics, sizes, inference, strict=True):
            found.append(case.row(metric, size, "B", chunk=chunk))
            note = f"{size:,} B over {floor:,} B"
            found.append(case.row(f"{metric}_over_inference", size / floor, "1", note, chunk=chunk))
    made = {one.chunk: _prepared(one)[1] for one in able}  # after, as a step counts all there is
    for chunk, ratios in _times(case, made, rounds, visit_seconds).items():
        low, middle, high = statistics.quantiles(ratios, n=4)
        clock = "CUDA events" if is_cuda(case.device) else "processor's clock"
        note = f"median of {len(ratios)}; quartiles {low:.3f} to {high:.3f}; {clock}"
        found.append(case.row("step_over_whole", middle, "1", note, chunk=chunk))
    return found


def _times(
    case: Streaming, made: dict[int, Callable[[], Any]], rounds: int, visit_seconds: float
) -> dict[int, list[float]]:
    """Of each chunk's step, its time over the unstreamed step's in each round."""
    steps = {str(chunk): step for chunk, step in made.items()}
    clock = "wall" if is_cuda(case.device) else "cpu"
    taken = in_turn(steps, case.device, rounds, visit_seconds, least_steps=1, clock=clock)
    return {
        chunk: [one / whole for one, whole in zip(taken[str(chunk)], taken["0"], strict=True)]
        for chunk in made
        if chunk
    }


def _prepared(case: Workload) -> tuple[nn.Module, Callable[[], Any]]:
    model, step = case.prepare()
    if case.method == "inference":
        for module in model.modules():
            if isinstance(module, _BatchNorm):  # which in training can't be streamed
                module.eval()
    return model, step


def _sizes(case: Workload) -> tuple[int, int]:
    """Exact tensor bytes and the heap's, on CUDA the allocator's, with nothing else alive."""
    model, step = _prepared(case)
    return warm_peak_bytes(model, step), high_water(case.device)[1](model, step)
