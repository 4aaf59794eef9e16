"""What a step of each split will need, before it runs: the most BP that fits a budget of memory.

A step is played on tensors that have a shape and no numbers (torch's fake tensors), and its bytes
are counted as a real step's are (`ezo.livebytes`). Nothing is computed, so that a large model takes
little longer than a small one, and no memory.
"""

import argparse
import copy
import importlib
import math
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import fake_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from ezo import catalogue, kernels
from ezo.int8.ops import SumTooLong
from ezo.livebytes import KINDS, LiveBytes, Peak, Prepare, step_peak

# A core of a processor, roughly: what one forward pass costs beside another's backward pass.
FLOP_SECONDS = 1 / 40e9
BYTE_SECONDS = 1 / 8e9
OPERATION_SECONDS = 5e-6

UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
INPUTS = {"image": 10, "points": 40}  # classes
_ITEM = torch.ops.aten._local_scalar_dense.default
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Simulation:
    """A step on shapes alone.

    Attributes:
        peak: what is alive when it needs the most.
        seconds: a rough time on one core, for comparing steps.
    """

    peak: Peak
    seconds: float


@dataclass(frozen=True)
class Prediction:
    """What one split will need.

    Attributes:
        method: ``full-zo``, ``elastic-k`` or ``full-bp``.
        bp_layers: parametric layers that BP trains.
        begins: name of the first of them, or nothing.
        peak: at the step's moment of most memory: parameters, buffers, batch, activations,
            gradients and optimiser state.
        relative_time: a step's time over that of two inference passes. Rough: from counted
            operations and bytes, on a processor of a usual balance.
        form: of floats, ``lean`` or nothing; of integers nothing.
    """

    method: str
    bp_layers: int
    begins: str
    peak: Peak
    relative_time: float
    form: str = ""


@dataclass(frozen=True)
class Plan:
    """Every split's needs, from full ZO to full BP.

    Attributes:
        inference: peak of a forward pass and its loss, without gradients.
        predictions: one for each split and form, by number of BP layers.
        budget: bytes that a step may take, or None for no bound.
        impossible: (method, why) of splits that have no step, in integers: where the sum of a
            layer's error could overflow.
    """

    inference: Peak
    predictions: tuple[Prediction, ...]
    budget: int | None
    impossible: tuple[tuple[str, str], ...] = ()

    def fits(self, prediction: Prediction) -> bool:
        """Whether a split's peak is within the budget."""
        return self.budget is None or prediction.peak.peak_bytes <= self.budget

    @property
    def best(self) -> Prediction | None:
        """The split with the most BP layers that fits, or None where none does.

        Of its forms that fit, the fastest, and of those as fast the one that needs the least.
        """
        fitting = [p for p in self.predictions if self.fits(p)]
        return min(
            fitting,
            key=lambda p: (-p.bp_layers, p.relative_time, p.peak.peak_bytes),
            default=None,
        )

    def table(self) -> str:
        """A line for each split, and the choice."""
        width = max(len(name) for name in ["BP begins at", *(p.begins for p in self.predictions)])
        lines = [
            f"{'method':<14} {'BP begins at':<{width}} "
            f"{'peak bytes':>14} {'/ inference':>11} "
            f"{'relative time':>13}  {'fits' if self.budget is not None else ''}".rstrip()
        ]
        for p in self.predictions:
            fits = "" if self.budget is None else "yes" if self.fits(p) else "no"
            ratio = p.peak.peak_bytes / self.inference.peak_bytes
            lines.append(
                f"{p.method:<14} {p.begins or '-':<{width}} "
                f"{p.peak.peak_bytes:>14,} {ratio:>11.3f} "
                f"{p.relative_time:>13.2f}  {fits}".rstrip()
            )
        lines += [f"{method} can't run: {why}" for method, why in self.impossible]
        if self.budget is not None and self.predictions:
            least = min(p.peak.peak_bytes for p in self.predictions)
            chosen = (
                f"{self.best.method}, the most BP that fits in {self.budget:,} B"
                if self.best
                else f"nothing fits in {self.budget:,} B: the least is {least:,} B; {self._less()}"
            )
            lines.append(chosen)
        return "\n".join(lines)

    def _less(self) -> str:
        """What to do where nothing fits."""
        weights = min(p.peak.kinds["parameters"] for p in self.predictions)
        if self.budget is not None and weights > self.budget:
            return f"the parameters alone take {weights:,} B, so that no batch is small enough"
        return "lower the batch size"

    def draw(self, path: Path | str) -> None:
        """Plot peak bytes by kind, and relative time, over the number of BP layers.

        Args:
            path: a file of any format that matplotlib writes.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: matplotlib does not write such a file.
        """
        try:
            figure_module = importlib.import_module("matplotlib.figure")
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "expected matplotlib for a plot, got none installed; in the clone: "
                "pip install -e '.[reproduce]' -c constraints.txt",
                name=error.name,
            ) from error
        figure = figure_module.Figure(figsize=(7.4, 5), layout="constrained")
        above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
        k = [p.bp_layers for p in self.predictions]
        bottom = [0.0] * len(k)
        greys = [f"{0.1 + 0.85 * i / (len(KINDS) - 1):.2f}" for i in range(len(KINDS))]
        for kind, grey in zip(KINDS, greys, strict=True):
            heights = [p.peak.kinds[kind] / 1e6 for p in self.predictions]
            above.bar(k, heights, 0.8, bottom, label=kind, color=grey, edgecolor="0.1", lw=0.4)
            bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
        above.axhline(self.inference.peak_bytes / 1e6, color="tab:blue", ls=":", label="inference")
        if self.budget is not None:
            above.axhline(self.budget / 1e6, color="tab:red", ls="--", label="budget")
        above.set(ylabel="predicted peak of a step (MB)")
        figure.legend(loc="outside right upper", fontsize=8)
        below.plot(k, [p.relative_time for p in self.predictions], "-", c="0.1", marker=".")
        below.set(xlabel="BP layers", ylabel="time / two\nforward passes", ylim=(0, None))
        below.xaxis.get_major_locator().set_params(integer=True)
        figure.savefig(path)


def plan(
    model: nn.Module,
    x: Tensor | tuple[Tensor, ...],
    budget: int | str | None = None,
    *,
    precision: str = "fp32",
    loss: Callable[[Any], Tensor] | None = None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    splits: Iterable[int] | None = None,
    lean: bool = False,
) -> Plan:
    """Predict what a step of every split will need.

    The model is neither run nor changed. Where the step asks for a tensor's value it gets 1, so a
    model whose course depends on values is predicted for that course.

    Args:
        model: any module, in the mode in which it will be trained. It may lie on the ``meta``
            device, and then counts as one on the CPU.
        x: the model's input, a batch as training will have it, or several inputs; only shapes and
            types are read, so it may lie on ``meta`` too.
        budget: bytes that a step may take, tensors only: an integer, or text such as ``300KB``,
            ``12MB`` or ``1.5GiB``. None for no bound.
        precision: a name that ``ezo list`` shows. For ``int8`` and ``int8*`` the model is a float
            one that `ezo.int8.from_float` can convert, and a step is the training loop's, with a
            fraction beside each trained weight; on the CPU by the compiled kernels, where there
            are any.
        loss: the loss of the model's output; by default cross-entropy with a class for each of
            the batch's examples. Integers have no other.
        bp_optimizer: as for `ezo.ElasticZO`; its state is part of the peak. Not for integers.
        splits: numbers of BP layers to look at; by default all, 0 to the number of parametric
            layers.
        lean: the BP part by the method ``elastic-lean-k``, which takes its gradient in a step's
            last pass and, unless ``bp_optimizer`` says otherwise, is plain SGD. Not for integers,
            where every split is so.

    Raises:
        ValueError: the budget is no amount of memory, or the precision is unknown or has no form
            of the model, or a split does not exist, or the model's shapes depend on values.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> found = plan(model, torch.empty(3, 4), budget="700B")
        >>> found.best.method, found.best.peak.peak_bytes
        ('elastic-1', 648)
    """
    limit = parse_bytes(budget) if isinstance(budget, str) else budget
    file = catalogue.find("precision", precision)
    if lean and "lean" not in file.FORMS:
        raise ValueError(
            f"expected fp32 for a lean plan, got {precision}, where the gradient always comes last "
            "and updates have no momentum; leave lean out"
        )
    forms = [form for form in file.FORMS if lean == (form == "lean")]

    def played(k: int | None, form: str) -> Simulation:
        return simulate(
            lambda: file.prepare(precision, *_shapes(model, x), k, form, loss, bp_optimizer)
        )

    inference = played(None, file.FORMS[0])
    names = [name or "(model)" for name in file.weighted(model)]
    n = len(names)
    predictions, impossible = [], {}
    for k in range(n + 1) if splits is None else sorted(set(splits)):
        kind = "elastic-lean" if lean else "elastic"
        method = "full-zo" if k == 0 else "full-bp" if k == n and not lean else f"{kind}-{k}"
        for form in forms:
            try:
                found = played(k, form)
            except SumTooLong as error:
                impossible[method] = str(error)
                continue
            predictions.append(
                Prediction(
                    method=method,
                    bp_layers=k,
                    begins=names[n - k] if k else "",
                    peak=found.peak,
                    relative_time=found.seconds / (2 * inference.seconds),
                    form=form,
                )
            )
    return Plan(inference.peak, tuple(predictions), limit, tuple(impossible.items()))


def simulate(prepare: Prepare) -> Simulation:
    """A step on shapes alone, after one that warms up.

    Args:
        prepare: makes a model and a function that does one step. It runs where every new tensor
            is fake; none that was made before should be changed by it.

    Raises:
        ValueError: a shape depends on values.
    """
    shapes = _Shapes()
    with (
        torch.device("cpu"),  # whatever the default, where a kernel's result names no device
        kernels.simulated(shapes.spend),
        warnings.catch_warnings(),
        fake_tensor.FakeTensorMode(allow_non_fake_inputs=True),
    ):
        # Module.__deepcopy__ asks where a tensor lies; for a fake one torch answers, and warns.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        try:
            peak = step_peak(prepare, shapes)
        except (
            fake_tensor.DataDependentOutputException,
            fake_tensor.DynamicOutputShapeException,
        ) as error:
            raise ValueError(
                "expected a step whose shapes follow from its input's, but a shape depends on "
                f"values: {error.func}; measure it instead"
            ) from error
    return Simulation(peak, shapes.seconds)


def parse_bytes(text: str) -> int:
    """An amount of memory in bytes.

    >>> parse_bytes("300KB"), parse_bytes("1.5 MiB")
    (300000, 1572864)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([KMG]i?)?B", text.strip())
    if found is None:
        raise ValueError(
            f"expected an amount of memory, a number with one of {', '.join(UNITS)}, got '{text}'; "
            "write for example 300KB"
        )
    return int(float(found[1]) * UNITS[f"{found[2] or ''}B"])


class _Shapes(LiveBytes):
    """Counts bytes and seconds of a step on fake tensors.

    Attributes:
        seconds: since the restart.
    """

    seconds = 0.0

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A compiled kernel computes, and reads memory that fake tensors don't have: refused."""
        return False

    def restart(self) -> None:
        super().restart()
        self.seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Count what no operation of torch's shows."""
        self.seconds += seconds

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is _ITEM:  # a shape has no value
            return _one(args[0].dtype)
        result = func(*args, **kwargs)
        if not func.is_view:
            tensors = [t for t in tree_iter((args, kwargs, result)) if isinstance(t, Tensor)]
            moved = sum(t.numel() * t.element_size() for t in tensors)
            flops = _flops(func, args, kwargs, result)
            self.seconds += flops * FLOP_SECONDS + moved * BYTE_SECONDS + OPERATION_SECONDS
        return result


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Floating-point operations of products and convolutions; others' time is in their bytes."""
    if func is _CONVOLUTION_BACKWARD:  # torch's own count forgets groups
        gradient, x, weight, *_ = args
        transposed, wanted = args[7], args[10]
        places = x.numel() if transposed else gradient.numel()
        return 2.0 * places * math.prod(weight.shape[1:]) * (wanted[0] + wanted[1])
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0


def _shapes(model: nn.Module, x: Tensor | tuple[Tensor, ...]) -> tuple[nn.Module, list[Tensor]]:
    """The model's shape and its inputs'."""
    tensors = [*model.parameters(), *model.buffers()]
    shape: nn.Module = copy.deepcopy(model, {id(t): _shape(t) for t in tensors})
    return shape, [_shape(t) for t in (x if isinstance(x, tuple) else (x,))]


def _shape(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type; a parameter for a parameter."""
    device = "cpu" if tensor.is_meta else tensor.device
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(found, requires_grad=tensor.requires_grad)
    return found


# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``ezo plan``."""
    add = parser.add_argument
    add("--model", required=True, help="a model that `ezo list` shows")
    add("--batch", type=int, default=32, help="examples a step")
    add("--budget", help="memory for a step's tensors, for example 300KB, 12MB or 1.5GiB")
    add(
        "--precision",
        default="fp32",
        help=f"number format: {', '.join(catalogue.names('precision'))}",
    )
    add("--classes", type=int, help="classes; by default 10 for images and 40 for points")
    add("--points", type=int, help="points a cloud, for a model of points; by default 1024")
    add(
        "--lean",
        action="store_true",
        help="plan elastic-lean-k, whose BP part holds nothing during a pass, not elastic-k",
    )
    add("--plot", type=Path, help="file for a plot, for example plan.svg")


def command(given: argparse.Namespace) -> int:
    """``ezo plan``: print the table; returns 0, or 1 where nothing fits."""
    module = catalogue.find("model", given.model)
    catalogue.find("precision", given.precision)  # before the work, as the budget
    for name in ("batch", "points", "classes"):
        value = getattr(given, name)
        if value is not None and value < 1:
            raise ValueError(f"expected --{name} of 1 or more, got {value}")
    if given.budget is not None:
        parse_bytes(given.budget)
    if module.INPUT == "image":
        if given.points is not None:
            raise ValueError(
                f"expected no --points for {given.model}, a model of images; leave it out"
            )
        example = getattr(module, "IMAGE", (1, 28, 28))
        channels = example[0]
    else:
        example, channels = (given.points or 1024, 3), 3
    with torch.device("meta"):
        model = module.build(given.model, given.classes or INPUTS[module.INPUT], channels)
        how = {"precision": given.precision, "lean": given.lean}
        found = plan(model, torch.empty(given.batch, *example), given.budget, **how)
    print(found.table())
    if given.plot is not None:
        found.draw(given.plot)
    return 0 if found.best else 1
