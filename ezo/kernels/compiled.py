"""Kernels in C++ for the CPU: the reference's bits, several times sooner.

A layer's product, ReLU and maximum are one sweep. What is requantized must know the largest
accumulator of all first; so each tile of accumulators is requantized by the last pass's shift and
thrown away, and where the largest then asks for another shift, the layer is computed again.
Backward, errors of a layer's input are such a product too.

Layouts: images lie in memory as (N, H, W, C), torch's channels_last, whatever their shape says.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ezo.int8.ops import LONGEST_SUM, check_length, sum_type
from ezo.int8.rounding import LARGEST, batch_shift
from ezo.kernels import (
    NOTHING,
    After,
    Drawn,
    Layer,
    NodeRates,
    Number,
    OutputNoise,
    Place,
    Seen,
    Shown,
    Signs,
    Sweeps,
    Weights,
    _arguments,
    _simulated,
)
from ezo.noise import GROUP, NOISES

_kernels: Any
try:
    _kernels = importlib.import_module("ezo._kernels")
except ImportError:
    _kernels = None

RANK = None if _kernels is None else 10
MOST_AVERAGED = 1 << 24  # numbers whose sum fits 32 bits
FLOATS = {torch.float32: 0, torch.float64: 1, torch.float16: 2, torch.bfloat16: 3}


def instruction_sets() -> list[str]:
    """Those that this processor can run, the best first."""
    return [] if _kernels is None else list(_kernels.instruction_sets())


class Backend:
    """Kernels of one instruction set, the best by default; or of ``native``, for plans.

    Raises:
        ValueError: there are no kernels, or none of that name.
    """

    def __init__(self, isa: str = "", *, native: Any = None) -> None:
        if native is None and _kernels is None:
            raise ValueError("expected compiled kernels, got none; install with a C++17 compiler")
        self._native = native or _kernels.Kernels(isa)
        self.name = isa or instruction_sets()[0]

    def simulated(self, spend: Callable[[float], None]) -> "Backend":
        return type(self)(native=_simulated.Native(spend))

    def sweeps(
        self, numbered: list[tuple[int, Tensor]], noise: str, scratch_bytes: int
    ) -> tuple[list[Sweeps], list[tuple[int, Tensor]]]:
        rest, taken, addresses, plain, laid = [], [], [], [], []  # plain: in row-major order
        for t, p in numbered:
            kind = FLOATS.get(p.dtype) if p.is_cpu else None  # the cheap form of `device.type`
            if kind is None or not (p.is_contiguous() or p.dim() <= _kernels.LARGEST_RANK):
                rest.append((t, p))
                continue
            address = p.data_ptr()
            taken.append(p)
            addresses.append(address)
            if p.is_contiguous():
                plain.append((address, p.numel(), t, kind))
            else:
                laid.append((address, p.numel(), t, kind, tuple(p.shape), p.stride()))
        table = self._native.table(plain, laid)
        return ([_Sweeps(self._native, noise, table, taken, addresses)] if taken else []), rest

    def fill(self, x: Tensor, noise: str, number: int, place: Place) -> Any:
        kind = FLOATS.get(x.dtype) if x.is_cpu and x.is_contiguous() else None
        if kind is None:
            return NotImplemented
        table = self._native.table([(x.data_ptr(), x.numel(), number, kind)], ())
        seed, step, stream = place
        at = (seed, int(step), stream)
        self._native.fill(table, NOISES.index(noise), at, torch.get_num_threads())

    def output_shift(self, y: Tensor, drawn: OutputNoise, by: float, relu: bool) -> Any:
        if not _plain_float(y):
            return NotImplemented
        on = torch.empty(y.shape, dtype=torch.bool) if relu else None
        noise, number, place = drawn
        what = (y.data_ptr(), _arguments.address(on), y.numel(), NOISES.index(noise), place, number)
        self._native.output_shift(*what, by, torch.get_num_threads())
        return on

    def output_errors(
        self, shown: Shown, units: int, bias: Tensor | None, drawn: OutputNoise, rate: float
    ) -> Any:
        x, on, scale = shown
        plain = _plain_float(x) and _plain_float(scale) and (on is None or on.is_contiguous())
        if not plain or not (bias is None or _plain_float(bias)):
            return NotImplemented
        rows, inputs = x.shape
        e = torch.empty((rows, units))
        seen = (x.data_ptr(), _arguments.address(on), scale.data_ptr(), rows, inputs, units)
        noise, number, place = drawn
        how = (e.data_ptr(), NOISES.index(noise), place, number, rate)
        self._native.output_errors(seen, _arguments.address(bias), *how)
        return e

    def sparse_shift(self, weights: Weights, drawn: Drawn, times: int) -> Any:
        if not all(map(_arguments.takes, weights)):
            return NotImplemented
        noise, place, first = drawn
        how, threads = (noise.threshold, noise.multiplier), torch.get_num_threads()
        self._native.sparse_shift(
            _arguments.table(weights, None, first), how, place, times, threads
        )

    def sparse_update(
        self, weights: Weights, fractions: Weights | None, drawn: Drawn, move: tuple[int, int, int]
    ) -> Any:
        if not all(map(_arguments.takes, weights)):
            return NotImplemented
        noise, place, first = drawn
        how, threads = (noise.threshold, noise.multiplier), torch.get_num_threads()
        g, rate, restore = move
        by = (g, rate, noise.bound, restore)
        self._native.sparse_update(
            _arguments.table(weights, fractions, first), how, place, by, threads
        )

    def bp_update(self, weight: Tensor, fraction: Tensor | None, gradient: Tensor, mu: int) -> Any:
        if not _arguments.takes(gradient):
            return NotImplemented
        addresses = (
            weight.data_ptr(),
            _arguments.address(fraction),
            gradient.contiguous().data_ptr(),
        )
        wide = gradient.dtype is torch.int64
        self._native.bp_update(*addresses, weight.numel(), mu, LARGEST, wide)

    def accumulators(self, x: Tensor, layer: Layer) -> Any:
        if not _arguments.takes(x) or not _arguments.serves(layer):
            return NotImplemented
        return self._product(x, layer, NOTHING, -1)[0]

    def product(
        self, x: Tensor, layer: Layer, after: After, guess: int, fixed: bool = False
    ) -> Any:
        if not _arguments.takes(x) or not _arguments.serves(layer):
            return NotImplemented
        if after.over_points and not after.where:  # (N, O) accumulators take little memory
            acc, bits = self._product(x, layer, after, -1)
            s = guess if fixed else min(batch_shift(bits), after.most)
            return self._requantize(acc, s), s, None
        where = None
        if after.over_points:
            where = torch.empty((len(x), len(layer.weight)), dtype=torch.int32)
        m, bits = self._product(x, layer, after, guess, where)
        if (s := guess if fixed else min(batch_shift(bits), after.most)) != guess:
            del m  # so that a second pass needs no more memory than a first
            m, _ = self._product(x, layer, after, s, where)
        return m, s, where

    def part(self, x: Tensor, layer: Layer, after: After, shift: int) -> Any:
        if not _arguments.takes(x) or not _arguments.serves(layer):
            return NotImplemented
        m, bits = self._product(x, layer, after, -1 if after.over_points else shift)
        need = min(batch_shift(bits), after.most)
        return (self._requantize(m, shift) if after.over_points else m), need

    def error(
        self, grad_output: Tensor, layer: Layer, guess: int, where: Any, points: int, size: Any
    ) -> Any:
        known = _arguments.serves(layer) and layer.stride == (1, 1)
        if not _arguments.takes(grad_output) or not known:
            return NotImplemented
        if where is None:
            return self.product(grad_output, _arguments.turned(layer), NOTHING, guess)[:2]
        m, bits = self._point_error(grad_output, layer.weight, where, points, guess)
        if (s := batch_shift(bits)) != guess:
            del m
            m, _ = self._point_error(grad_output, layer.weight, where, points, s)
        return m, s

    def gradients(self, grad_output: Tensor, x: Tensor, layer: Layer, where: Tensor | None) -> Any:
        if not _arguments.takes(grad_output) or not _arguments.plain(layer):
            return NotImplemented
        shape = layer.weight.shape
        outputs, inputs = shape[:2]
        images = len(shape) == 4
        kind = sum_type((grad_output.numel() // outputs) if images else x.numel() // inputs)
        wide = kind is torch.int64
        bias = None if layer.bias is None else torch.empty(outputs, dtype=kind)
        if images:
            x, grad_output, kernel = self._images(x), self._images(grad_output), shape[2]
            weight = torch.empty((outputs, kernel, kernel, inputs), dtype=kind)
            of_kernel, _, _ = _arguments.geometry(x.shape, shape, *layer[3:])
            images_of = (_arguments.described(x), _arguments.numbers(layer, shape, of_kernel))
            to = (weight.data_ptr(), _arguments.address(bias), wide)
            self._native.convolution_gradient(grad_output.data_ptr(), *images_of, *to)
            return weight.permute(0, 3, 1, 2).contiguous(), bias
        x, grad_output = x.contiguous(), grad_output.contiguous()
        weight = torch.empty(shape, dtype=kind)
        sizes = (grad_output.numel() // outputs, 1 if where is None else x.shape[1], *shape, wide)
        what = (
            grad_output.data_ptr(),
            _arguments.address(where),
            x.data_ptr(),
            weight.data_ptr(),
            _arguments.address(bias),
        )
        self._native.linear_gradient(*what, *sizes)
        return weight, bias

    def add(self, a: Tensor, b: Tensor, left: tuple[int, int], relu: bool, shift: int) -> Any:
        if not (_arguments.takes(a) and a.dtype == b.dtype == torch.int8):
            return NotImplemented
        if a.dim() == 4:
            a, b = self._images(a), self._images(b)
        else:
            a, b = a.contiguous(), b.contiguous()
        out = torch.empty_like(a)
        addresses = (a.data_ptr(), b.data_ptr(), out.data_ptr())
        largest = self._native.add(*addresses, a.numel(), *left, relu, min(shift, 31))
        return out, largest.bit_length()

    def average(self, x: Tensor, size: tuple[int, int], shift: int) -> Any:
        if not _arguments.takes(x) or x.dtype != torch.int8 or size[0] * size[1] > MOST_AVERAGED:
            return NotImplemented
        x = self._images(x)
        shape = (*x.shape[:2], x.shape[2] // size[0], x.shape[3] // size[1])
        acc = torch.empty(shape, dtype=torch.int32, memory_format=torch.channels_last)
        largest = self._native.average(_arguments.described(x), x.shape[1], *size, acc.data_ptr())
        return self._requantize(acc, shift), largest.bit_length()

    def max_pool2d(self, x: Tensor, size: int) -> Any:
        if not _arguments.takes(x) or x.dtype != torch.int8 or size > 16:  # 256 places fit a byte
            return NotImplemented
        n, channels, height, width = x.shape
        x = self._images(x)
        shape = (n, channels, height // size, width // size)
        y = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
        where = torch.empty(shape, dtype=torch.uint8, memory_format=torch.channels_last)
        self._native.max_pool(
            _arguments.described(x), channels, size, y.data_ptr(), where.data_ptr()
        )
        return y, where

    def max_pool2d_backward(
        self, grad_output: Tensor, where: Tensor, shape: torch.Size, size: int
    ) -> Any:
        if not _arguments.takes(grad_output) or where.dtype != torch.uint8:
            return NotImplemented
        n, channels, *sizes = shape
        grad_output = self._images(grad_output)
        found = torch.empty(shape, dtype=torch.int8, memory_format=torch.channels_last)
        addresses = [t.data_ptr() for t in (grad_output, where, found)]
        self._native.max_pool_backward(*addresses, n, *sizes, channels, size)
        return found

    def flatten(self, x: Tensor) -> Any:
        if not _arguments.takes(x) or x.dim() != 4 or x.dtype != torch.int8:
            return NotImplemented
        n, channels, height, width = x.shape
        x = self._images(x)
        out = torch.empty((n, channels * height * width), dtype=torch.int8)
        self._transpose(x, out, n, height * width, channels)
        return out

    def loss(self, logits: Tensor, exponent: int, target: Tensor) -> Any:
        if not _arguments.classified(logits, target):
            return NotImplemented
        return self._native.loss(*_arguments.logits(logits, exponent, target), 0)

    def losses(self, logits: Tensor, exponent: int, target: Tensor) -> Any:
        if not _arguments.classified(logits, target):
            return NotImplemented
        each = torch.empty(len(logits), dtype=torch.int64)
        self._native.loss(*_arguments.logits(logits, exponent, target), each.data_ptr())
        return each

    def loss_error(self, logits: Tensor, exponent: int, target: Tensor, u: Tensor) -> Any:
        if not _arguments.classified(logits, target):
            return NotImplemented
        u = u.to(torch.int64).expand(logits.shape).contiguous()
        found = torch.empty(logits.shape, dtype=torch.int8)
        to = (u.data_ptr(), found.data_ptr())
        self._native.loss_error(*_arguments.logits(logits, exponent, target), *to)
        return found

    def node_shift(self, y: Tensor, drawn: Signs, by: int, relu: bool) -> Any:
        if not (_arguments.takes(y) and y.is_contiguous()):
            return NotImplemented
        wide = y.dtype is torch.int32
        self._native.node_shift(y.data_ptr(), y.numel(), wide, *drawn, by, relu)

    def node_update(
        self,
        layer: Layer,
        fractions: Sequence[Tensor | None],
        seen: Seen,
        differences: Tensor,
        drawn: Signs,
        rates: NodeRates,
    ) -> Any:
        x, y, where = seen
        if not _arguments.takes(x) or len(differences) > LONGEST_SUM:
            return NotImplemented
        x = x.contiguous()
        tensors = (layer.weight, fractions[0], layer.bias, *fractions[1:2])
        own = [_arguments.address(t) for t in tensors] + [0] * (4 - len(tensors))
        points = 1 if where is None else x.shape[1]
        passed = (x.data_ptr(), _arguments.address(y), _arguments.address(where))
        self._native.node_update(
            (*own, *layer.weight.shape),
            (*passed, len(differences), points),
            differences.data_ptr(),
            *drawn,
            rates,
            torch.get_num_threads(),
        )

    def words(self, place: Place, n: int, device: torch.device) -> Any:
        if device.type != "cpu" or n == 0:
            return NotImplemented
        out = torch.empty(-(-n // GROUP) * GROUP, dtype=torch.int64)
        self._native.words(place, out.data_ptr(), out.numel())
        return out[:n]

    def _images(self, x: Tensor) -> Tensor:
        """(N, C, H, W) as (N, H, W, C) in memory.

        torch would copy a large batch by threads of its own, which wait by spinning, and the
        kernels' threads would have to share the cores with them.
        """
        turned = x.dtype is torch.int8 and x.is_contiguous()
        if not turned or x.is_contiguous(memory_format=torch.channels_last):
            return x.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        out = torch.empty_like(x, memory_format=torch.channels_last)
        self._transpose(x, out, n, channels, height * width)
        return out

    def _transpose(self, x: Tensor, out: Tensor, n: int, rows: int, columns: int) -> None:
        """Each of n blocks of (rows, columns), as they lie in memory."""
        addresses = (x.data_ptr(), out.data_ptr())
        self._native.transpose(*addresses, n, rows, columns, torch.get_num_threads())

    def _product(
        self, x: Tensor, layer: Layer, after: After, shift: int, where: Tensor | None = None
    ) -> tuple[Tensor, int]:
        """Requantized by ``shift``, or accumulators where it is -1, and the largest one's bits."""
        weight, bias, left, *how = layer
        relu, pool, over_points, *_ = after
        x_of, of, shape, are_images = _arguments.sizes(
            x.dtype, x.shape, weight.shape, bias is not None, pool, over_points, *how
        )
        kind = torch.int32 if shift < 0 else torch.int8
        if are_images:
            x = self._images(x)
            out = torch.empty(shape, dtype=kind, memory_format=torch.channels_last)
        else:
            x = x.contiguous()
            out = torch.empty(shape, dtype=kind)
        images_of = (x.data_ptr(), *x_of)
        numbers = (*of, weight.data_ptr(), _arguments.address(bias), left)
        then, to = (relu, pool, over_points, shift), (out.data_ptr(), _arguments.address(where))
        largest = self._native.product(images_of, numbers, then, *to, torch.get_num_threads())
        return out, largest.bit_length()

    def _point_error(
        self, grad_output: Tensor, weight: Tensor, where: Tensor, points: int, shift: int
    ) -> tuple[Tensor, int]:
        check_length(len(weight))
        grad_output = grad_output.contiguous()
        found = torch.empty((len(grad_output), points, weight.shape[1]), dtype=torch.int8)
        addresses = [t.data_ptr() for t in (grad_output, where, weight, found)]
        sizes = (len(grad_output), points, *weight.shape)
        return found, self._native.point_error(*addresses, *sizes, shift).bit_length()

    def _requantize(self, acc: Tensor, s: int) -> Tensor:
        """int32 to int8, divided by 2^s and rounded to nearest; the memory format stays."""
        out = torch.empty_like(acc, dtype=torch.int8)
        self._native.requantize(acc.data_ptr(), out.data_ptr(), acc.numel(), s)
        return out


def _plain_float(x: Tensor) -> bool:
    """Whether it is float32 in row-major order, of the CPU's."""
    return x.dtype is torch.float32 and x.is_cpu and x.is_contiguous()


class _Sweeps:
    """A table of weights, read by the kernels once for all sweeps of a step."""

    def __init__(
        self, native: Any, noise: str, table: Any, taken: list[Tensor], addresses: list[int]
    ) -> None:
        self._native, self._noise, self._table = native, NOISES.index(noise), table
        self._taken, self._addresses = taken, addresses

    def shift(self, place: Place, eps: Number, times: float) -> None:
        self._native.shift(*self._where(place), (float(eps), times), torch.get_num_threads())

    def update(self, place: Place, eps: Number, rate: Number, decay: Number, restore: bool) -> None:
        how = (float(eps), float(eps - rate), float(decay), restore)
        self._native.update(*self._where(place), how, torch.get_num_threads())

    def learn(self, place: Place, rate: Number, decay: Number) -> None:
        how = (float(rate), float(decay))
        self._native.learn(*self._where(place), how, torch.get_num_threads())

    def fill(self, place: Place) -> None:
        self._native.fill(*self._where(place), torch.get_num_threads())

    def _where(self, place: Place) -> tuple[Any, ...]:
        """The kernels' first arguments; addresses are looked at again before they are written to.

        Raises:
            RuntimeError: a parameter has been moved.
        """
        if [*map(Tensor.data_ptr, self._taken)] != self._addresses:
            raise RuntimeError(
                "expected the parameters to stay where they are during a step, but one got "
                "new memory; don't move or convert the model in the closure"
            )
        seed, step, stream = place
        return self._table, self._noise, (seed, int(step), stream)
