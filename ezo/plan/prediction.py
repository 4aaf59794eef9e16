"""The needs of each method's step, a table of them, and the choice for a budget."""

import contextlib
import functools
import gc
import inspect
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_iter, tree_map_only

from ezo import catalogue, check
from ezo.livebytes import Peak
from ezo.plan.budget import limit_of
from ezo.plan.shapes import shape_of, without_numbers
from ezo.plan.simulation import Simulation, simulate
from ezo.precisions import Impossible, Step

BEGINS = "BP begins at"
METHODS = ("full-zo", "elastic-*", "full-bp")
FROZEN_AT_START = 10_000  # objects at most: an interpreter of Python 3.12 begins with some hundreds


@dataclass(frozen=True)
class Prediction:
    """What one method will need.

    Attributes:
        precision: number format.
        chunk: examples that layers without a gradient take at a time (`ezo.stream`), 0 for all.
        begins: name of the first layer that BP trains, or nothing.
        peak: at the step's moment of most memory: parameters, buffers, batch, activations,
            gradients and optimiser state.
        relative_time: a step's time over that of two passes of `Plan.inference`. Rough: from
            counted operations and bytes, on a processor of a usual balance.
        hidden: operators that keep a workspace, or make sparse tensors, of a size that only a real
            step shows; then the peak is at least this. Of any other step it is the measured one.
    """

    method: str
    bp_layers: int
    begins: str
    peak: Peak
    relative_time: float
    hidden: tuple[str, ...] = ()
    precision: str = "fp32"
    chunk: int = 0


@dataclass(frozen=True)
class Plan:
    """Every method's needs, in the order in which they were asked for, and ``inference``'s.

    Attributes:
        inference: of a pass of the whole batch, in the first precision.
        budget: bytes that a step may take, or None for no bound.
        impossible: (method, why) of those that have no step in this precision.
    """

    inference: Peak
    predictions: tuple[Prediction, ...]
    budget: int | None
    impossible: tuple[tuple[str, str], ...] = ()

    def label(self, of: Prediction) -> str:
        """A method's, with its precision where the plan has several, and its chunk if any."""
        several = len({p.precision for p in self.predictions}) > 1
        words = [
            of.method,
            of.precision if several else "",
            f"chunk {of.chunk}" if of.chunk else "",
        ]
        return " ".join(filter(None, words))

    def fits(self, prediction: Prediction) -> bool:
        """Whether a method's peak is within the budget; where it is at least so much, no."""
        if self.budget is None:
            return True
        return not prediction.hidden and prediction.peak.peak_bytes <= self.budget

    @property
    def best(self) -> Prediction | None:
        """The method with the most BP layers that fits, or None where none does.

        Of those with as many the fastest, and of those as fast the one that needs the least.
        """
        return min(
            filter(self.fits, self.predictions),
            key=lambda p: (-p.bp_layers, p.relative_time, p.peak.peak_bytes),
            default=None,
        )

    def table(self) -> str:
        """A line for each method, and the choice."""
        left = max([14, *(len(self.label(p)) for p in self.predictions)])
        width = max(len(name) for name in [BEGINS, *(p.begins for p in self.predictions)])

        def line(method: str, begins: str, peak: str, ratio: str, time: str, fits: str) -> str:
            said = f"{method:<{left}} {begins:<{width}} {peak:>14} {ratio:>11} {time:>13}  "
            return (said + ("" if self.budget is None else fits)).rstrip()

        lines = [line("method", BEGINS, "peak bytes", "/ inference", "relative time", "fits")]
        for p in self.predictions:
            peak, time = p.peak.peak_bytes, f"{p.relative_time:.2f}"
            ratio, fits = f"{peak / self.inference.peak_bytes:.3f}", "yes" if self.fits(p) else "no"
            if p.hidden:
                beyond = self.budget is not None and peak > self.budget
                fits = f"{'no; ' if beyond else ''}at least, by {', '.join(p.hidden)}"
            lines.append(line(self.label(p), p.begins or "-", f"{peak:,}", ratio, time, fits))
        if hidden := sorted({name for p in self.predictions for name in p.hidden}):
            lines.append(
                f"at least: {', '.join(hidden)} takes memory whose size only a real step shows; "
                "measure such a method before you rely on it"
            )
        lines += [f"{method} can't run: {why}" for method, why in self.impossible]
        if self.budget is not None and self.predictions:
            least = min(p.peak.peak_bytes for p in self.predictions)
            weights = min(p.peak.kinds["parameters"] for p in self.predictions)
            fix = "lower the batch size"
            if weights > self.budget:
                fix = f"the parameters alone take {weights:,} B, so that no batch is small enough"
            lines.append(
                f"{self.label(self.best)}, the most BP that fits in {self.budget:,} B"
                if self.best
                else f"nothing {'surely ' if hidden else ''}fits in {self.budget:,} B: "
                f"the least is {least:,} B; {fix}"
            )
        return "\n".join(lines)

    def draw(self, path: Path | str) -> None:
        """Plot peak bytes by kind, and relative time, of each method, in a format of matplotlib's.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
            ValueError: matplotlib does not write such a file, or its folder is not there.
        """
        from ezo.plan.drawing import draw

        draw(self, path)


def plan(
    model: nn.Module,
    x: Any,
    budget: int | str | None = None,
    *,
    precision: str | Sequence[str] = "fp32",
    methods: Iterable[str] | None = None,
    chunk: int | Sequence[int] = 0,
    loss: Callable[..., Tensor] | None = None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    splits: Iterable[int] | None = None,
    lean: bool = False,
    progress: bool = False,
) -> Plan:
    """Predict what a step of each method will need.

    The model is neither run nor changed. Where the step asks for a tensor's value it gets 1, so a
    model whose course depends on values is predicted for that course.

    Args:
        model: any module, in the mode in which it will be trained. On the ``meta`` device it
            counts as one on the CPU.
        x: a batch as training will have it: the model's input, a tuple of its arguments, or a dict
            of named ones. Only shapes and types of tensors are read; they may lie on ``meta`` too.
        budget: bytes that a step may take, tensors only: an integer, or text such as ``300KB``,
            ``12MB`` or ``1.5GiB``. None for no bound.
        precision: a name that ``ezo list`` shows, or several, each with every method and chunk;
            integers are of what `ezo.int8.from_float` takes.
        methods: names that ``ezo list`` shows, each with the precision's default hyperparameters;
            ``elastic-*`` is every split point of the model. By default `METHODS`.
        chunk: examples that layers without a gradient take at a time (`ezo.stream`), 0 for all, or
            several; lines that a chunk changes nothing in are left out.
        loss: of the model's output, or, where it has two arguments, of that and labels, (N,), a
            class for each of the batch's examples; by default cross-entropy with these. Integers
            have no other.
        bp_optimizer: as for `ezo.ElasticZO`; its state is part of the peak. Not for integers.
        splits: numbers of BP layers. Give ``methods`` instead: this will go.
        progress: say on stderr how far a plan of more than some seconds is. A method takes about
            0.2 ms for each operation of its step: a minute or two in all for a model of hundreds of
            operations and fifty layers.
        lean: short for the methods ``full-zo`` and ``elastic-lean-k`` for every k.

    Raises:
        ValueError: the budget is no amount of memory, or a name is unknown, or the precision has no
            form of the model or of all methods, or the model's shapes depend on values.

    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> found = plan(model, torch.empty(3, 4), budget="700B")
    >>> found.best.method, found.best.peak.peak_bytes
    ('elastic-1', 648)
    """
    limit = limit_of(budget)
    if not any(isinstance(t, Tensor) for t in tree_iter(x)):
        raise ValueError(f"expected an input with a tensor, got {x!r}")
    precisions = (precision,) if isinstance(precision, str) else tuple(precision)
    names = [name or "(model)" for name in catalogue.find("precision", precisions[0]).layers(model)]
    chunks = (chunk,) if isinstance(chunk, int) else tuple(chunk)
    for size in chunks:
        check.integer("chunk", size, 0)
    if splits is not None:
        warnings.warn(
            "plan(splits=...) will go; give methods=('full-zo', 'elastic-2', ...)",
            FutureWarning,
            stacklevel=2,
        )
    if methods is None:
        methods = _of_splits(len(names), splits, lean) if splits or lean else METHODS
    make = functools.partial(_step, model, x, loss, bp_optimizer)
    every = itertools.product(precisions, chunks, catalogue.expand(methods, len(names)))
    chosen = list(dict.fromkeys(Choice(*of) for of in every))
    if len(precisions) > 1:
        chosen = [of for of in chosen if _has(of.precision, of.method)]
    with _new_objects_alone():
        return _predicted(make, names, chosen, limit, progress)


class Choice(NamedTuple):
    """What is planned; the method None is a pass of inference."""

    precision: str
    chunk: int
    method: str | None


def _has(precision: str, method: str | None) -> bool:
    """Whether the precision has a form of the method."""
    file = catalogue.find("precision", precision)
    try:
        file.check(method, file.default(method))
    except ValueError:
        return False
    return True


def _of_splits(layers: int, splits: Iterable[int] | None, lean: bool) -> list[str]:
    """The methods of these numbers of BP layers, or of all."""
    kind = "elastic-lean" if lean else "elastic"
    ends = {0: "full-zo"} if lean else {0: "full-zo", layers: "full-bp"}
    chosen = range(layers + 1) if splits is None else sorted(set(splits))
    return [ends.get(k, f"{kind}-{k}") for k in chosen]


Ready = tuple[Step, Callable[[], Any]]


def _predicted(
    make: Callable[[Choice], Ready],
    names: list[str],
    chosen: list[Choice],
    limit: int | None,
    told: bool,
) -> Plan:
    inference, _ = _needs(make, Choice(chosen[0].precision, 0, None))
    predictions: dict[Any, Prediction] = {}
    impossible = []
    for of in _told(chosen) if told else chosen:
        try:
            found, k = _needs(make, of)
        except Impossible as error:
            impossible.append((str(of.method), str(error)))
            continue
        time = found.seconds / (2 * inference.seconds)
        begins = names[-k] if k else ""
        one = Prediction(str(of.method), k, begins, found.peak, time, found.hidden, *of[:2])
        predictions.setdefault((of.precision, of.method, found.peak.peak_bytes, time), one)
    return Plan(inference.peak, tuple(predictions.values()), limit, tuple(impossible))


def _needs(make: Callable[[Choice], Ready], of: Choice) -> tuple[Simulation, int]:
    """What a method's step, or inference's pass, needs; and how many layers BP trains in it."""
    bp_layers = []

    def prepare() -> tuple[nn.Module, Callable[[], Any]]:
        step, run = make(of)
        bp_layers.append(step.bp_layers)
        return step.model, run

    return simulate(prepare), bp_layers[0]


def _step(model: nn.Module, x: Any, loss: Any, bp_optimizer: Any, of: Choice) -> Ready:
    """A precision's step of a model's shape on a batch's."""
    precision, chunk, method = of
    file = catalogue.find("precision", precision)
    labelled = loss is None or _takes_labels(loss)
    of_output = loss if labelled else lambda output, labels: loss(output)
    how = {"loss": of_output, "bp_optimizer": bp_optimizer}
    model = without_numbers(model)
    step: Step = file.make_step(precision, model, method, file.default(method), **how)
    if chunk:
        step.stream(chunk)
    x = tree_map_only(Tensor, shape_of, x)
    first = next(t for t in tree_iter(x) if isinstance(t, Tensor))
    labels = None
    if labelled:
        labels = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    batch = step.calibrate(x)
    return step, lambda: step(batch, labels)


def _takes_labels(loss: Callable[..., Tensor]) -> bool:
    """Whether a loss wants a class for each example beside the output."""
    call = loss.forward if isinstance(loss, nn.Module) else loss
    places = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        own = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # of a builtin
        return False
    return sum(p.kind in places and p.default is inspect.Parameter.empty for p in own) > 1


@contextlib.contextmanager
def _new_objects_alone() -> Iterator[None]:
    """Within, garbage is sought among new objects: among all it takes as long as a small step."""
    if gc.get_freeze_count() > FROZEN_AT_START:  # another's, who has frozen torch's objects too
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _told(methods: list[Choice]) -> Iterable[Choice]:
    """With a bar on stderr from the fifth second on; in a file, a line each half a minute."""
    from tqdm import tqdm

    often = 0.5 if sys.stderr.isatty() else 30
    bar: Iterable[Choice] = tqdm(methods, "plan", unit="method", delay=5, mininterval=often)
    return bar
