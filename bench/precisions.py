"""Training in integers against floating point: time and memory, as ratios within one run.

Memory: exact tensor bytes and the heap's (`bench.memory`) of the fp32 step over the integer one's.
``int8-whole`` is int8 with a layer's accumulators held whole, in int32, until they are requantized:
what tiles (`ezo.kernels.compiled`) save, like against like.

Time: the step of a method in fp32 over its step in each other precision, and torch's full BP in
fp32 over it, all in one process, rounds A B .. B A (`bench.timing`). Full BP stands for the
fastest that torch offers here: with the layers' weights in the usual memory format and in
channels_last, whichever is faster.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.memory import heap_bytes, warm_peak_bytes
from bench.timing import in_turn, interval
from bench.workload import Workload
from ezo import kernels
from ezo.int8.rounding import batch_shift
from ezo.kernels import After, Layer, _arguments, compiled
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
OTHERS = ("int8", "int8-whole", "int8*")
ROUNDS, VISIT_SECONDS = 15, 0.15
COST = (12 * ROUNDS * VISIT_SECONDS, 0)
LAYOUTS = {
    "full BP, contiguous": torch.contiguous_format,
    "full BP, channels_last": torch.channels_last,
}
SMOKE = {"rounds": 2, "visit_seconds": 0.001}


@dataclass(frozen=True)
class Comparison:
    """One method in every precision, and full BP."""

    model: str
    method: str
    batch_size: int
    threads: int = 1
    device: str = "cpu"
    rounds: int = 0  # or ROUNDS

    @property
    def name(self) -> str:
        return f"{self.workload('fp32').name}-precisions"

    def workload(self, precision: str, method: str | None = None) -> Workload:
        """One of what is timed."""
        how: dict[str, Any] = {
            "precision": precision,
            "threads": self.threads,
            "device": self.device,
        }
        return Workload(self.model, method or self.method, self.batch_size, **how)


def cases(model: str, method: str, batch_size: int) -> list[Comparison]:
    """A method on a model."""
    return [Comparison(model, method, batch_size)]


def measure(case: Comparison, rounds: int = 0, visit_seconds: float = VISIT_SECONDS) -> list[Row]:
    """``turn_seconds`` of a step in each round, and four ratios to every precision.

    ``fp32_over_PRECISION`` and ``full_bp_over_PRECISION`` of time, ``fp32_bytes_over_PRECISION``
    and ``fp32_heap_over_PRECISION`` of memory; times are medians, with intervals.
    """
    sizes = {name: _sizes(case, name) for name in ("fp32", *OTHERS)}
    steps = {name: _prepare(case, name)[1] for name in ("fp32", *OTHERS)}
    for name, layout in LAYOUTS.items():
        model, steps[name] = case.workload("fp32", "full-bp").prepare()
        _channels_last(model, layout)
    wait = case.workload("fp32").synchronise
    samples = in_turn(steps, wait, rounds or case.rounds or ROUNDS, visit_seconds)
    times = {name: torch.tensor(seconds) for name, seconds in samples.items()}
    fastest = min(LAYOUTS, key=lambda name: times[name].median().item())
    found = []
    for precision in ("fp32", *(name for name in OTHERS if not name.endswith("-whole"))):
        row_of = case.workload(precision).row
        seconds = enumerate(samples[precision])
        found += [row_of("turn_seconds", second, "s", round=n) for n, second in seconds]
    for name in OTHERS:
        row_of = case.workload(name.removesuffix("-whole")).row
        for metric, other in (("fp32", "fp32"), ("full_bp", fastest)):
            ratios = times[other] / times[name]
            low, high = interval(ratios)
            note = f"95 % interval {low:.2f} to {high:.2f}"
            if metric == "full_bp":
                note += f"; {fastest}"
            found.append(row_of(f"{metric}_over_{name}", ratios.median().item(), "1", note))
        for kind, ours, floats in zip(("bytes", "heap"), sizes[name], sizes["fp32"], strict=True):
            note = f"{floats:,} B over {ours:,} B"
            found.append(row_of(f"fp32_{kind}_over_{name}", floats / ours, "1", note))
    return found


class Whole(compiled.Backend):
    """The compiled kernels, with the accumulators of a whole layer in memory at once."""

    def product(
        self, x: Tensor, layer: Layer, after: After, guess: int, fixed: bool = False
    ) -> Any:
        if fixed or after.where or not x.numel() or not _arguments.serves(layer):
            return super().product(x, layer, after, guess, fixed)
        return *self._requantized(x, layer, after), None

    def error(
        self, grad_output: Tensor, layer: Layer, guess: int, where: Any, points: int, size: Any
    ) -> Any:
        known = _arguments.serves(layer) and layer.stride == (1, 1)
        if where is not None or not grad_output.numel() or not known:
            return super().error(grad_output, layer, guess, where, points, size)
        return self._requantized(grad_output, _arguments.turned(layer), After())

    def _requantized(self, x: Tensor, layer: Layer, after: After) -> tuple[Tensor, int]:
        acc, bits = self._product(x, layer, after, -1)
        s = min(batch_shift(bits), after.most)
        return self._requantize(acc, s), s


def _prepare(case: Comparison, name: str) -> tuple[nn.Module, Callable[[], Any]]:
    model, step = case.workload(name.removesuffix("-whole")).prepare()
    if not name.endswith("-whole"):
        return model, step
    whole = Whole()

    def held_whole() -> Any:
        with kernels.using(whole):
            return step()

    return model, held_whole


def _sizes(case: Comparison, name: str) -> tuple[int, int]:
    """Exact tensor bytes and the heap's, with nothing else alive."""
    model, step = _prepare(case, name)
    return warm_peak_bytes(model, step), heap_bytes(model, step)


def _channels_last(model: nn.Module, layout: torch.memory_format) -> None:
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.to(memory_format=layout)
