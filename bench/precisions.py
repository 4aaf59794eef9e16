"""Training in integers against floating point: time and memory, as ratios within one run.

Memory: exact tensor bytes and the heap's (`bench.memory`) of the fp32 step over the integer one's.
``int8-whole`` is int8 with a layer's accumulators held whole, in int32, until they are requantized:
what tiles (`ezo.kernels.compiled`) save, like against like. On CUDA the allocator's peak stands
for the heap's, and there are no tiles: ``int8`` is whole.

Time: the step of a method in fp32 over its step in each other precision, and torch's full BP in
fp32 over it, all in one process, rounds A B .. B A (`bench.timing`). Both fp32 sides are the
fastest that torch offers here (`FLOATS`): as it is, with its weights in channels_last, with the
faster maxima and the ReLU in place of `ezo.stream` (the same bits), and compiled by torch where a
compiler is there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.cuda import is_cuda
from bench.grid import START_SECONDS
from bench.isolate import told
from bench.memory import high_water, warm_peak_bytes
from bench.timing import in_turn, interval
from bench.workload import Workload
from ezo import kernels
from ezo.int8.rounding import batch_shift
from ezo.kernels import After, Layer, _arguments, compiled
from ezo.rows import Row

METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
OTHERS = ("int8", "int8-whole", "int8*")
ROUNDS, VISIT_SECONDS = 15, 0.15
PLAIN, COMPILED = "contiguous", "compiled"
FLOATS = (PLAIN, "channels_last", "faster pooling", COMPILED)  # ways to run a step in fp32
COMPILE_SECONDS = 30.0  # of both fp32 sides
SIZES_SECONDS = 6.0
SMOKE = {"rounds": 2, "visit_seconds": 0.001}


@dataclass(frozen=True)
class Comparison:
    """One method in every precision, and full BP."""

    model: str
    method: str
    batch_size: int
    threads: int = 1
    device: str = "cpu"
    rounds: int = 0  # or ROUNDS; with fewer than these nothing is compiled, which takes long

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


def seconds(case: Comparison) -> float:
    """About how long a cell takes."""
    rounds = case.rounds or ROUNDS
    ways = len(OTHERS) + 2 * (len(FLOATS) - (rounds < ROUNDS))
    visits = 2 * ways * rounds * VISIT_SECONDS
    return START_SECONDS + SIZES_SECONDS + visits + (rounds >= ROUNDS) * COMPILE_SECONDS


def measure(case: Comparison, rounds: int = 0, visit_seconds: float = VISIT_SECONDS) -> list[Row]:
    """``turn_seconds`` of a step in each round, and four ratios to every precision.

    ``fp32_over_PRECISION`` and ``full_bp_over_PRECISION`` of time, ``fp32_bytes_over_PRECISION``
    and ``fp32_heap_over_PRECISION`` of memory, on CUDA ``fp32_allocated_over_PRECISION``; times are
    medians, with intervals, over the fastest of `FLOATS`. ``turn_seconds`` of another of them than
    `PLAIN` names it, as ``layout``.
    """
    rounds = rounds or case.rounds or ROUNDS
    others: tuple[str, ...] = OTHERS
    if is_cuda(case.device):
        others = tuple(name for name in OTHERS if not name.endswith("-whole"))
    sizes = {name: _sizes(case, name) for name in ("fp32", *others)}
    steps, found = {name: _prepare(case, name)[1] for name in others}, []
    for name in set(OTHERS) - set(others):
        why = "not measured: on CUDA no layer is tiled, and int8 is whole"
        found.append(case.workload("int8").row(f"fp32_over_{name}", None, "1", why))
    methods = {"fp32": case.method, "full BP": "full-bp"}
    for side, method in methods.items():
        for way in FLOATS if rounds >= ROUNDS else FLOATS[:-1]:
            workload = case.workload("fp32", method)
            try:
                steps[f"{side}, {way}"] = _in_floats(workload, way)
            except Exception as error:  # no compiler is there, or none for this model
                if way != COMPILED:
                    raise
                found.append(workload.row("turn_seconds", None, "s", told(error), layout=way))
    samples = in_turn(steps, case.device, rounds, visit_seconds)
    times = {name: torch.tensor(taken) for name, taken in samples.items()}
    fastest = {
        side: min(
            (name for name in times if name.startswith(side)),
            key=lambda name: times[name].median().item(),
        )
        for side in methods
    }
    for name, taken in samples.items():
        side, _, way = name.partition(", ")
        if side != "full BP" and not name.endswith("-whole"):
            layout = {"layout": way} if way and way != PLAIN else {}
            row_of = case.workload(side).row
            found += [
                row_of("turn_seconds", second, "s", round=n, **layout)
                for n, second in enumerate(taken)
            ]
    for name in others:
        row_of = case.workload(name.removesuffix("-whole")).row
        for metric, side in (("fp32", "fp32"), ("full_bp", "full BP")):
            ratios = times[fastest[side]] / times[name]
            low, high = interval(ratios)
            note = f"95 % interval {low:.2f} to {high:.2f}; {fastest[side]}"
            found.append(row_of(f"{metric}_over_{name}", ratios.median().item(), "1", note))
        kinds = ("bytes", high_water(case.device)[0])
        for kind, ours, floats in zip(kinds, sizes[name], sizes["fp32"], strict=True):
            note = f"{floats:,} B over {ours:,} B"
            found.append(row_of(f"fp32_{kind}_over_{name}", floats / ours, "1", note))
    return found


def _in_floats(workload: Workload, way: str) -> Callable[[], Any]:
    """A step in fp32 in one of `FLOATS`; compiled where that is the way."""
    if way == "faster pooling":
        workload = replace(workload, chunk=workload.batch_size)
    model, step = workload.prepare()
    if way == "channels_last":
        for parameter in model.parameters():
            if parameter.dim() == 4:
                parameter.data = parameter.data.to(memory_format=torch.channels_last)
    if way == COMPILED:
        model.compile(dynamic=False)
        step()
    return step


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
    """Exact tensor bytes and the heap's, on CUDA the allocator's, with nothing else alive."""
    model, step = _prepare(case, name)
    return warm_peak_bytes(model, step), high_water(case.device)[1](model, step)
