"""What a step costs as something grows: bytes and seconds over batch, image, points, width, depth.

One thing grows in a series, all else stands still. For each size exact peak bytes and the time of
a step; over the series the exponent b of cost = a size^b (least squares on logarithms), and the
largest size whose step fits in a given memory, from the step played on shapes (`ezo.plan`).
Images, width and depth belong to a plain network of 3 x 3 convolutions, ``convnet``; the other
models grow by batch, PointNet by points too.
"""

import functools
import gc
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench.memory import peak_bytes
from bench.timing import check, visit
from bench.workload import Workload, prepared, row_of
from ezo import catalogue
from ezo.plan import simulate
from ezo.rows import Row

MODELS = ("lenet5", "pointnet", "convnet")
METHODS = ("inference", "full-zo", "elastic-1", "full-bp")
SIZES = {
    "batch": (4, 8, 16, 32),
    "points": (64, 128, 256, 512),
    "image": (8, 16, 32, 64),  # pixels along an edge
    "width": (8, 16, 32, 64),  # channels; parameters grow with its square
    "depth": (2, 4, 8, 16),  # convolutions
}
CONVNET = {"batch": 8, "image": 16, "width": 8, "depth": 2}
MEMORIES = (10**6, 10**9)  # bytes
DEEPEST = 32  # convolutions to look at; each further one adds the same
STEPS = 5
SMOKE = {"sizes": (1, 2), "memories": (10**6,), "steps": 1}


@dataclass(frozen=True)
class Series:
    """A method on a model, or on ``convnet``, of which one thing grows: ``axis``, of `SIZES`."""

    model: str
    method: str
    axis: str
    batch_size: int = 8
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        place = "" if self.device == "cpu" else f"-{self.device.replace(':', '')}"
        return f"{self.model}-{self.method}-batch{self.batch_size}{place}-{self.axis}"

    def prepare(self, size: int) -> tuple[nn.Module, Callable[[], Tensor]]:
        """The model at a size, and the function that does one step and returns the loss."""
        has = {**CONVNET, "points": 256, "batch": self.batch_size, self.axis: size}
        if self.model != "convnet":
            step_of = Workload(self.model, self.method, has["batch"], has["points"])
            return replace(step_of, threads=self.threads, device=self.device).prepare()
        torch.set_num_threads(self.threads)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = convnet(has["width"], has["depth"])
            x = torch.randn(has["batch"], 3, has["image"], has["image"])
            y = torch.randint(0, 10, (has["batch"],))
        step, batch, labels = prepared("fp32", self.method, model, x, y, self.device)
        return step.model, lambda: step(batch, labels)


def convnet(width: int, depth: int) -> nn.Sequential:
    """``depth`` convolutions of ``width`` channels, the mean over the image, ten classes."""
    body: list[nn.Module] = []
    for i in range(depth):
        body += [nn.Conv2d(width if i else 3, width, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))


def cases(model: str, method: str, batch_size: int) -> list[Series]:
    """A method's series, of what each model lets grow."""
    return [Series(model, method, axis, batch_size) for axis in _axes(model)]


def _axes(model: str) -> tuple[str, ...]:
    if model == "convnet":
        return ("image", "width", "depth")
    image = catalogue.find("model", model).INPUT == "image"
    return ("batch",) if image else ("batch", "points")


def measure(
    case: Series,
    sizes: Sequence[int] | None = None,
    memories: Sequence[int] = MEMORIES,
    steps: int = STEPS,
) -> list[Row]:
    """A series: each size's bytes, seconds and parameters; exponents; the largest sizes."""
    costs: dict[str, list[tuple[int, float]]] = {"peak_tensor_bytes": [], "step_seconds": []}
    found = []
    for size in sizes or SIZES[case.axis]:
        model, step = case.prepare(size)
        check(case.name, step)
        gc.collect()
        about: dict[str, Any] = {
            "size": size,
            "parameters": sum(p.numel() for p in model.parameters()),
        }
        took = {"B": peak_bytes(step), "s": statistics.median(visit(step, steps, case.device))}
        for metric, (unit, value) in zip(costs, took.items(), strict=True):
            costs[metric].append((size, value))
            found.append(_row(case, metric, value, unit, "", **about))
        del model, step
    for metric, points in costs.items():
        b = exponent(points)
        note = f"of cost = a {case.axis}^b over {points[0][0]} to {points[-1][0]}"
        found.append(_row(case, f"{metric}_exponent", b, "1", note))
    on_cpu = replace(case, device="cpu")  # shapes are the same
    peak = functools.cache(lambda size: simulate(lambda: on_cpu.prepare(size)).peak.peak_bytes)
    for memory in memories:
        largest = largest_size(peak, memory, DEEPEST if case.axis == "depth" else None)
        note = f"{case.axis} whose step fits in {memory:,} B, by the step on shapes"
        found.append(_row(case, "largest_size", largest, "1", note, memory_bytes=memory))
    return found


def exponent(points: Iterable[tuple[float, float]]) -> float:
    """b of cost = a size^b, fitted to (size, cost) by least squares on logarithms.

    >>> round(exponent([(1, 5.0), (2, 20.0), (4, 80.0)]), 6)
    2.0
    """
    sizes, values = zip(*[(math.log(x), math.log(y)) for x, y in points], strict=True)
    return statistics.linear_regression(sizes, values).slope


def largest_size(peak: Callable[[int], int], memory: int, line_from: int | None = None) -> int:
    """The largest size whose peak fits in ``memory`` bytes, 0 where none does.

    From the size ``line_from`` on every further one adds the same to ``peak(size)``, so that none
    larger than twice this is looked at.

    >>> largest_size(lambda size: 10 + 3 * size * size, memory=312)
    10
    >>> largest_size(lambda size: 10 + 3 * size, memory=312, line_from=8)
    100
    """
    if line_from is not None and peak(line_from) <= memory:
        more = (peak(2 * line_from) - peak(line_from)) / line_from
        return line_from + int((memory - peak(line_from)) / more)
    low, high = 0, 1
    while peak(high) <= memory:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak(middle) <= memory else (low, middle)
    return low


def _row(case: Series, metric: str, value: float, unit: str, note: str = "", **config: Any) -> Row:
    about = {"axis": case.axis, "batch_size": case.batch_size, **config}
    return row_of(case, metric, value, unit, note, about)
