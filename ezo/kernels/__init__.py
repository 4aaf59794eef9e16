"""The room for backends: what a step computes, by whichever backend takes the tensors at hand.

A backend is one file in this folder. It defines ``RANK``, its place in the order in which backends
are asked (None: only by name, see `using`), and ``Backend``, a class whose methods are operations
below. What a backend lacks, or answers with ``NotImplemented`` since it does not take
such tensors, the next one in order serves; the last is `ezo.kernels.reference`, plain torch, which
takes all. Every backend gives the same bits.

A backend that a plan can play (`simulated`) has a method ``simulated(spend)`` that returns one
which allocates the same and computes nothing.

Index letters: N example, P point, C input channel, O output, H W position, K kernel.
"""

import contextlib
import functools
import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

from ezo.kernels import _told
from ezo.kernels._types import NOTHING as NOTHING
from ezo.kernels._types import After as After
from ezo.kernels._types import Drawn as Drawn
from ezo.kernels._types import Layer as Layer
from ezo.kernels._types import NodeRates as NodeRates
from ezo.kernels._types import Number as Number
from ezo.kernels._types import OutputNoise as OutputNoise
from ezo.kernels._types import Place as Place
from ezo.kernels._types import Rate as Rate
from ezo.kernels._types import Seen as Seen
from ezo.kernels._types import Shown as Shown
from ezo.kernels._types import Signs as Signs
from ezo.kernels._types import Sweeps as Sweeps
from ezo.kernels._types import Weights as Weights

sweeping = ContextVar("sweeping", default=False)  # whether tensors made now are scratch


class _Choice:
    """Backends in the order in which they are asked."""

    def __init__(
        self, backends: tuple[Any, ...], kept: dict[Any, Any], automatic: bool = False
    ) -> None:
        self.backends, self.kept, self.automatic = backends, kept, automatic
        names = {name for b in backends for name in dir(b) if not name.startswith("_")}
        self.runs = {n: [getattr(b, n) for b in backends if hasattr(b, n)] for n in names}


_chosen: ContextVar[_Choice | None] = ContextVar("kernels", default=None)


def names() -> list[str]:
    """Every backend, by the names of their files."""
    found = sorted(info.name for info in pkgutil.iter_modules(__path__))
    return [name for name in found if not name.startswith("_")]


@functools.cache
def _automatic() -> _Choice:
    files = [importlib.import_module(f"{__name__}.{name}") for name in names()]
    ranked = [file for file in files if file.RANK is not None]
    ranked.sort(key=lambda file: (file.RANK, file.__name__.endswith(".reference")))
    return _Choice(tuple(file.Backend() for file in ranked), {}, automatic=True)


@contextlib.contextmanager
def _within(choice: _Choice) -> Iterator[None]:
    token = _chosen.set(choice)
    try:
        yield
    finally:
        _chosen.reset(token)


def using(backend: Any, **options: Any) -> contextlib.AbstractContextManager[None]:
    """Within, in this thread, one backend, or that of a name, serves; the reference what it lacks.

    Options are the backend's: ``using("compiled", isa="avx2")``.

    Raises:
        ValueError: the name is unknown, or the machine can't run it.
    """
    if isinstance(backend, str):
        if backend not in names():
            raise ValueError(f"unknown backend '{backend}'; known: {', '.join(names())}")
        backend = importlib.import_module(f"{__name__}.{backend}").Backend(**options)
    reference = _automatic().backends[-1]
    order = (backend,) if type(backend) is type(reference) else (backend, reference)
    return _within(_Choice(order, _automatic().kept))


def simulated(spend: Callable[[float], None]) -> contextlib.AbstractContextManager[None]:
    """Within, in this thread, backends allocate what they would and compute nothing, for plans.

    Enter it before tensors without numbers are made. ``spend`` is told a kernel's rough seconds.
    """
    backends = (_chosen.get() or _automatic()).backends
    played = [b.simulated(spend) for b in backends if hasattr(b, "simulated")]
    return _within(_Choice(tuple(played), {}))


def kept() -> dict[Any, Any]:
    """What is made once and stays, by any key; while a plan is made, the plan's own."""
    return (_chosen.get() or _automatic()).kept


def serving() -> str:
    """The compiled kernels' instruction set, or the name of the backend that is asked first."""
    name: str = (_chosen.get() or _automatic()).backends[0].name
    return name


def choice() -> object:
    """What stands for the backends that serve now: another object where others do."""
    return _chosen.get() or _automatic()


def _call(operation: str, *arguments: Any) -> Any:
    """The operation by the first backend that takes the arguments."""
    for run in (_chosen.get() or _automatic()).runs[operation]:
        found = run(*arguments)
        if found is not NotImplemented:
            return found
    raise NotImplementedError(f"expected a backend with {operation} for these tensors, got none")


def sweeps(
    parameters: Sequence[Tensor], noise: str, first_tensor: int, scratch_bytes: int
) -> list[Sweeps]:
    """The sweeps over float weights, one a backend that takes some of them.

    The t-th is tensor number ``first_tensor + t`` of the noise stream.
    """
    choice = _chosen.get() or _automatic()
    rest = list(enumerate(parameters, start=first_tensor))
    found: list[Sweeps] = []
    for run in choice.runs["sweeps"]:
        if choice.automatic and run is choice.runs["sweeps"][-1]:
            _told.left([tensor for _, tensor in rest], _compiled(choice), len(choice.backends))
        taken, rest = run(rest, noise, scratch_bytes)
        found += taken
        if not rest:
            break
    return found


def fill(x: Tensor, noise: str, number: int, place: Place) -> None:
    """x <- z, in place, float: the noise of tensor ``number`` of the stream."""
    _call("fill", x, noise, number, place)


def output_shift(y: Tensor, drawn: OutputNoise, by: float, relu: bool) -> Tensor | None:
    """y <- y + by z, in place, float; the units that its ReLU then lets through, bool, or None."""
    found: Tensor | None = _call("output_shift", y, drawn, by, relu)
    return found


def output_errors(
    shown: Shown, units: int, bias: Tensor | None, drawn: OutputNoise, rate: float
) -> Tensor:
    """What nodes (`ezo.nodes`) learn of a layer of so many units, (rows, U), float32.

    e_i = scale_i z_i on_i, less its mean ebar where there is a bias, which learns here, in place:
    b <- b - rate (sum_i e_i - sum_i (e_i - ebar) x_i' xbar). The caller multiplies it with x. Sums
    go over rows one after the other, and over the numbers of a row in halves.
    """
    found: Tensor = _call("output_errors", shown, units, bias, drawn, rate)
    return found


def perturbed(
    numbered: Sequence[tuple[int, Tensor]],
    results: Sequence[Tensor],
    noise: str,
    place: Place,
    by: tuple[Number, float],
) -> None:
    """results <- theta + times eps z, contiguous; the weights, float, stay as they are.

    Args:
        numbered: weights of one type, each with its tensor number in the noise stream.
        by: (eps, times).
    """
    _call("perturbed", numbered, results, noise, place, by)


def sparse_shift(weights: Weights, drawn: Drawn, times: int) -> None:
    """theta <- theta + times z, in place (`ezo.int8.perturb.shift_`)."""
    _call("sparse_shift", weights, drawn, times)


def sparse_update(
    weights: Weights, fractions: Weights | None, drawn: Drawn, move: tuple[int, int, int]
) -> None:
    """theta <- clip(theta - g sign(z) ((|z| rate + u) >> 16)), in place.

    Args:
        move: (g, rate, restore) of `ezo.int8.perturb.update_`.
    """
    _call("sparse_update", weights, fractions, drawn, move)


def bp_update(weight: Tensor, fraction: Tensor | None, gradient: Tensor, mu: int) -> None:
    """W <- clip(W - PSR(gradient, bits(gradient) - mu)) within +-127, in place (NITI).

    With a fraction, uint8, the same for 256 W + fraction, 8 bits finer.
    """
    _call("bp_update", weight, fraction, gradient, mu)


def accumulators(x: Tensor, layer: Layer) -> Tensor:
    """A layer's products with int8 (N, C, H, W) or (..., C), added up: int32.

    Raises:
        ValueError: x does not fit the weights, or an accumulator could overflow.
    """
    return _call("accumulators", x, layer)


def product(
    x: Tensor, layer: Layer, after: After, guess: int, fixed: bool = False
) -> tuple[Tensor, int, Tensor | None]:
    """`accumulators`, requantized to int8 by `ezo.int8.rounding.batch_shift`, and what follows.

    ``x`` before a maximum over points is (N, P, C). By ``guess``, the last pass's shift, a backend
    may requantize at once, and again where it was not the one; with ``fixed`` by ``guess`` whatever
    the accumulators, where what exceeds +-127 is held there. Returns (int8, the shift, int32
    points (N, O) where ``after`` wants them, else None).
    """
    return _call("product", x, layer, after, guess, fixed)


def part(x: Tensor, layer: Layer, after: After, shift: int) -> tuple[Tensor, int]:
    """`product` of some of a batch's examples, by ``shift`` whatever; and the one they need."""
    return _call("part", x, layer, after, shift)


def error(
    grad_output: Tensor,
    layer: Layer,
    guess: int,
    where: Tensor | None = None,
    points: int = 1,
    size: torch.Size | None = None,
) -> tuple[Tensor, int]:
    """Errors of a layer's output to errors of its input, requantized as in `product`; the shift.

    ``grad_output`` is int8, (N, O, H', W') or (..., O); or (N, O), each of the one of ``points``
    points that ``where``, int32, (N, O), says. ``size`` is the input's height and width, where a
    stride leaves them open.
    """
    return _call("error", grad_output, layer, guess, where, points, size)


def gradients(
    grad_output: Tensor, x: Tensor, layer: Layer, where: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """The gradients of weight and bias, of `ezo.int8.ops.sum_type`; arguments as for `error`."""
    return _call("gradients", grad_output, x, layer, where)


def add(a: Tensor, b: Tensor, left: tuple[int, int], relu: bool, shift: int) -> tuple[Tensor, int]:
    """`ezo.int8.sums.add`, requantized to int8 by ``shift``; and the bits of the largest sum."""
    return _call("add", a, b, left, relu, shift)


def average(x: Tensor, size: tuple[int, int], shift: int) -> tuple[Tensor, int]:
    """`ezo.int8.sums.average`, requantized to int8 by ``shift``; and the bits of the largest."""
    return _call("average", x, size, shift)


def max_pool2d(x: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """`ezo.int8.ops.max_pool2d`; the type of the places is the backend's own."""
    return _call("max_pool2d", x, size)


def max_pool2d_backward(grad_output: Tensor, where: Tensor, shape: torch.Size, size: int) -> Tensor:
    """`ezo.int8.ops.max_pool2d_backward`, with the places that `max_pool2d` gave."""
    return _call("max_pool2d_backward", grad_output, where, shape, size)


def flatten(x: Tensor) -> Tensor:
    """(N, ...) to (N, the rest in one dimension), any integers."""
    return _call("flatten", x)


def loss(logits: Tensor, exponent: int, target: Tensor) -> int:
    """The sum of `ezo.int8.loss.cross_entropy` over a batch."""
    return _call("loss", logits, exponent, target)


def losses(logits: Tensor, exponent: int, target: Tensor) -> Tensor:
    """`ezo.int8.loss.cross_entropy`: each example's, int64, (N,)."""
    return _call("losses", logits, exponent, target)


def loss_error(logits: Tensor, exponent: int, target: Tensor, u: Tensor) -> Tensor:
    """`ezo.int8.loss.cross_entropy_gradient`, int8, rounded by ``u``."""
    return _call("loss_error", logits, exponent, target, u)


def node_shift(y: Tensor, drawn: Signs, by: int, relu: bool) -> None:
    """y <- clip(y + by n), then its ReLU, in place; n is `ezo.int8.nodes.signs`.

    ``y`` is int8, clipped to +-127, or int32, to +-(2^31 - 1).
    """
    _call("node_shift", y, drawn, by, relu)


def node_update(
    layer: Layer,
    fractions: Sequence[Tensor | None],
    seen: Seen,
    differences: Tensor,
    drawn: Signs,
    rates: NodeRates,
) -> None:
    """The update of a linear layer's weight and bias of `ezo.int8.nodes`, in place.

    Args:
        fractions: uint8, of weight and bias, or None for none.
        differences: d, int8, (N,).
        drawn: the noise of the passes.
    """
    _call("node_update", layer, fractions, seen, differences, drawn, rates)


def words(place: Place, n: int, device: torch.device) -> Tensor:
    """The first ``n`` words of tensor 0 (`ezo.noise.words`), int64."""
    return _call("words", place, n, device)


def warn_where_missing() -> None:
    """Say, the first time, that the reference has to do, where nothing was compiled."""
    choice = _chosen.get() or _automatic()
    if choice.automatic and not _compiled(choice):
        _told.missing()


def _compiled(choice: _Choice) -> bool:
    return any(type(b).__module__ == f"{__name__}.compiled" for b in choice.backends)
