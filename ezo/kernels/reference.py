"""Plain torch, on any device: what the formulas say, and what every other backend is held to."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ezo import noise as _noise
from ezo.int8 import loss as _loss
from ezo.int8 import nodes as _nodes
from ezo.int8 import ops, sums
from ezo.int8 import perturb as _perturb
from ezo.int8.rounding import LARGEST, batch_shift, bit_width, quotient, shift
from ezo.kernels import (
    NOTHING,
    After,
    Drawn,
    Layer,
    NodeRates,
    Number,
    OutputNoise,
    Place,
    Rate,
    Seen,
    Shown,
    Signs,
    Sweeps,
    Weights,
    fill,
    sweeping,
)
from ezo.perturb import GRID, ROUNDING, Sweeper, stochastic

RANK = 1000  # the last
SPARSE_SCRATCH_BYTES = 64 * 1024
NODE_UNITS = 16  # units whose gradients are held at once
_SPARSE_GROUP_BYTES = 16 * 1024  # of int64 scratch while a group of sparse noise is drawn


class Backend:
    """Every operation, and any tensors."""

    name = __name__.rpartition(".")[2]

    def simulated(self, spend: Callable[[float], None]) -> "Backend":
        return OnShapes()

    def bits(self, acc: Tensor) -> int:
        """Of the largest magnitude."""
        return bit_width(acc)

    def pieces(self, size: int, group: int, groups: int) -> Iterator[tuple[int, int]]:
        """First and last element of each piece of so many groups, while whose noise is drawn."""
        token = sweeping.set(True)
        try:
            for first in range(0, size, groups * group):
                yield first, min(size, first + groups * group)
        finally:
            sweeping.reset(token)

    def sweeps(
        self, numbered: list[tuple[int, Tensor]], noise: str, scratch_bytes: int
    ) -> tuple[list[Sweeps], list[tuple[int, Tensor]]]:
        return [_Sweeps(self, numbered, noise, scratch_bytes)], []

    def fill(self, x: Tensor, noise: str, number: int, place: Place) -> None:
        """By whatever sweeps there."""
        Sweeper([x], noise=noise, first_tensor=number).fill(place)

    def output_shift(self, y: Tensor, drawn: OutputNoise, by: float, relu: bool) -> Tensor | None:
        z = self._output_noise(y.shape, drawn, y)
        y.add_(z.to(torch.float64 if y.dtype == torch.float64 else torch.float32).mul_(by))
        return y > 0 if relu else None

    def output_errors(
        self, shown: Shown, units: int, bias: Tensor | None, drawn: OutputNoise, rate: float
    ) -> Tensor:
        x, on, scale = shown
        e = self._output_noise((len(x), units), drawn, x).mul_(scale.unsqueeze(1))
        if on is not None:
            e.mul_(on)
        if bias is not None:
            n = torch.tensor(float(len(x)), device=x.device)
            total, mean = _total(e), _total(x) / n
            bias.sub_(total * rate)
            e.sub_(total / n)
            bias.add_(_total(e * _in_halves(x * mean).unsqueeze(1)) * rate)
        return e

    def _output_noise(self, shape: Any, drawn: OutputNoise, like: Tensor) -> Tensor:
        """By whatever draws there."""
        z = torch.empty(shape, dtype=torch.float32, device=like.device)
        fill(z, *drawn)
        return z

    def perturbed(
        self,
        numbered: Sequence[tuple[int, Tensor]],
        results: Sequence[Tensor],
        noise: str,
        place: Place,
        by: tuple[Number, float],
    ) -> None:
        """Copies, swept by whatever serves there."""
        for (t, theta), out in zip(numbered, results, strict=True):
            out.copy_(theta)
            Sweeper([out], noise=noise, first_tensor=t).shift(place, *by)

    def sparse_shift(self, weights: Weights, drawn: Drawn, times: int) -> None:
        noise, place, first = drawn
        for t, parameter in enumerate(weights, start=first):
            for theta, at, z, _ in self._sparse_pieces(parameter, noise, place, t):
                theta[at] += (z * times).to(torch.int8)

    def sparse_update(
        self, weights: Weights, fractions: Weights | None, drawn: Drawn, move: tuple[int, int, int]
    ) -> None:
        noise, place, first = drawn
        g, rate, restore = move
        bits = 0 if fractions is None else _perturb.FRACTION_BITS
        for t, parameter in enumerate(weights):
            for theta, at, z, u in self._sparse_pieces(parameter, noise, place, first + t):
                old = theta[at].to(torch.int64)
                old += restore * z
                old <<= bits
                if fractions is not None:
                    fraction = fractions[t].view(-1)
                    old += fraction[at]
                by = (z.abs() * rate + (u >> bits)) >> (_perturb.RATE_BITS - bits)
                low, high = -noise.bound << bits, ((noise.bound + 1) << bits) - 1
                new = (old - g * z.sign() * by).clamp_(low, high)
                theta[at] = (new >> bits).to(torch.int8)
                if fractions is not None:
                    fraction[at] = (new & ((1 << bits) - 1)).to(torch.uint8)

    def bp_update(self, weight: Tensor, fraction: Tensor | None, gradient: Tensor, mu: int) -> None:
        bits = self.bits(gradient)
        if fraction is None:
            new = weight.to(torch.int16) - shift(gradient, bits - mu, "pseudo-stochastic")
            weight.copy_(new.clamp_(-LARGEST, LARGEST))
            return
        fine = bits - mu - _perturb.FRACTION_BITS
        by = shift(gradient, fine, "pseudo-stochastic", wide=True)
        self._move(weight, fraction, slice(None), by)

    def accumulators(self, x: Tensor, layer: Layer) -> Tensor:
        images = layer.weight.dim() == 4
        acc = ops.conv2d(x, layer.weight, *layer[3:]) if images else ops.linear(x, layer.weight)
        if layer.bias is not None:
            bias = ops.aligned(layer.bias, layer.bias_left)
            acc += bias.view(-1, 1, 1) if images else bias
        return acc

    def product(
        self, x: Tensor, layer: Layer, after: After, guess: int, fixed: bool = False
    ) -> tuple[Tensor, int, Tensor | None]:
        acc = self.accumulators(x, layer)
        m, s = self._requantized(acc, guess if fixed else None, after.most)
        del acc
        where = None
        if after.relu:
            m = ops.relu(m)
        if after.over_points:
            m, where = ops.max_over_points(m)
            where = where.to(torch.int32) if after.where else None
        elif after.pool > 1:
            m, _ = ops.max_pool2d(m, after.pool)
        return m, s, where

    def part(self, x: Tensor, layer: Layer, after: After, shift: int) -> tuple[Tensor, int]:
        need = min(batch_shift(self.bits(self.accumulators(x, layer))), after.most)
        return self.product(x, layer, after, shift, True)[0], need

    def error(
        self,
        grad_output: Tensor,
        layer: Layer,
        guess: int,
        where: Tensor | None,
        points: int,
        size: torch.Size | None,
    ) -> tuple[Tensor, int]:
        if where is not None:
            grad_output = ops.max_over_points_backward(grad_output, where.to(torch.int64), points)
        if layer.weight.dim() == 4:
            acc = ops.conv2d_error(grad_output, layer.weight, *layer[3:], size)
            return self._requantized(acc)
        return self._requantized(ops.linear_error(grad_output, layer.weight))

    def gradients(
        self, grad_output: Tensor, x: Tensor, layer: Layer, where: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        if where is not None:
            grad_output = ops.max_over_points_backward(
                grad_output, where.to(torch.int64), x.shape[1]
            )
        if layer.weight.dim() == 4:
            kernel, channel = layer.weight.shape[2:], 1
            weight = ops.conv2d_gradient(grad_output, x, kernel, *layer[3:])
        else:
            weight, channel = ops.linear_gradient(grad_output, x), -1
        if layer.bias is None:
            return weight, None
        return weight, grad_output.movedim(channel, 0).flatten(1).sum(1, dtype=weight.dtype)

    def add(
        self, a: Tensor, b: Tensor, left: tuple[int, int], relu: bool, by: int
    ) -> tuple[Tensor, int]:
        acc = sums.add(a, b, left)
        m = shift(acc, by, "nearest")
        return ops.relu(m) if relu else m, self.bits(acc)

    def average(self, x: Tensor, size: tuple[int, int], by: int) -> tuple[Tensor, int]:
        acc = sums.average(x, size)
        return shift(acc, by, "nearest"), self.bits(acc)

    def max_pool2d(self, x: Tensor, size: int) -> tuple[Tensor, Tensor]:
        return ops.max_pool2d(x, size)

    def max_pool2d_backward(
        self, grad_output: Tensor, where: Tensor, shape: torch.Size, size: int
    ) -> Tensor:
        return ops.max_pool2d_backward(grad_output, where.to(torch.int64), shape, size)

    def flatten(self, x: Tensor) -> Tensor:
        return x.flatten(1)

    def loss(self, logits: Tensor, exponent: int, target: Tensor) -> int:
        return int(_loss.cross_entropy(logits, exponent, target).sum())

    def loss_error(self, logits: Tensor, exponent: int, target: Tensor, u: Tensor) -> Tensor:
        return _loss.cross_entropy_gradient(logits, exponent, target, u)

    def losses(self, logits: Tensor, exponent: int, target: Tensor) -> Tensor:
        return _loss.cross_entropy(logits, exponent, target)

    def node_shift(self, y: Tensor, drawn: Signs, by: int, relu: bool) -> None:
        most = min(torch.iinfo(y.dtype).max, (1 << 31) - 1)
        n = _nodes.signs(drawn, y.numel(), y.device).view(y.shape)
        moved = y.to(torch.int64).add_(n, alpha=by)
        y.copy_(moved.clamp_(0 if relu else -most, most))

    def node_update(
        self,
        layer: Layer,
        fractions: Sequence[Tensor | None],
        seen: Seen,
        differences: Tensor,
        drawn: Signs,
        rates: NodeRates,
    ) -> None:
        weight, bias, *_ = layer
        units, n = len(weight), len(differences)
        e = _nodes.signs(drawn, n * units, weight.device).view(n, units)
        e = e * differences.unsqueeze(1)
        if seen.y is not None:
            e *= seen.y > 0
        total = e.sum(0)  # int64
        if bias is not None:
            e = (e - quotient(total, n)).clamp_(-LARGEST, LARGEST).to(torch.int8)
        along = torch.zeros_like(total)
        for first in range(0, units, NODE_UNITS):  # a tile's gradients at once
            tile = slice(first, first + NODE_UNITS)
            x = seen.x
            if seen.where is None:
                gradient = ops.linear_gradient(e[:, tile].contiguous(), x)
            else:
                at = seen.where[:, tile, None].to(torch.int64).expand(-1, -1, x.shape[2])
                x = x.gather(1, at)  # (N, U, K)
                gradient = (e[:, tile, None].to(torch.int64) * x).sum(0)
            gradient = gradient.to(torch.int64)
            mean = quotient(x.sum(0) << _nodes.MEAN_BITS, n)
            along[tile] = (gradient * mean).sum(1)
            self._move(weight[tile], fractions[0], tile, _rated(gradient, rates.weight))
        if bias is not None:
            along = shift(along, _nodes.ALONG_BITS, "nearest", wide=True)
            along.clamp_(-_nodes.LARGEST_ALONG, _nodes.LARGEST_ALONG)
            by = _rated(total, rates.bias) - _rated(along, rates.mean)
            self._move(bias, fractions[1], slice(None), by)

    def _move(self, weight: Tensor, fraction: Tensor | None, at: slice, by: Tensor) -> None:
        """weight - by within +-127, or with a fraction, of which ``at`` is its, 8 bits finer."""
        if fraction is None:
            weight.copy_((weight - by).clamp_(-LARGEST, LARGEST))
            return
        one = 1 << _perturb.FRACTION_BITS
        new = weight.to(torch.int64) * one + fraction[at] - by
        new.clamp_(-LARGEST * one, LARGEST * one + one - 1)
        weight.copy_(new >> _perturb.FRACTION_BITS)
        fraction[at] = (new & (one - 1)).to(torch.uint8)

    def words(self, place: Place, n: int, device: torch.device) -> Tensor:
        seed, step, stream = place
        groups = -(-n // _noise.GROUP)
        return _noise.words(seed, step, 0, stream, 0, groups, device).flatten()[:n]

    def _requantized(
        self, acc: Tensor, s: int | None = None, most: int = NOTHING.most
    ) -> tuple[Tensor, int]:
        s = min(batch_shift(self.bits(acc)), most) if s is None else s
        return shift(acc, s, "nearest"), s

    def _sparse_pieces(
        self, parameter: Tensor, noise: Any, place: Place, t: int
    ) -> Iterator[tuple[Tensor, slice, Tensor, Tensor]]:
        """(flat parameter, slice, z, u) for each piece that fits the scratch."""
        seed, step, stream = place
        group, flat = _perturb.SPARSE_GROUP, parameter.view(-1)
        groups = SPARSE_SCRATCH_BYTES // _SPARSE_GROUP_BYTES
        for first, last in self.pieces(len(flat), group, groups):
            g, end = first // group, -(-last // group)
            z, u = _perturb.draw(noise, seed, step, t, stream, g, end, flat.device)
            yield flat, slice(first, last), z[: last - first], u[: last - first]


class OnShapes(Backend):
    """The reference on tensors without numbers."""

    def __init__(self) -> None:
        ops._int_mm_is_exact()  # found out by numbers, before there are none

    def bits(self, acc: Tensor) -> int:
        """Usual ones, so that exponents stay; the memory is as always."""
        acc.to(torch.int64).abs()
        return 14

    def pieces(self, size: int, group: int, groups: int) -> Iterator[tuple[int, int]]:
        """Two: no later piece is larger, or finds more left of the one before."""
        return super().pieces(min(size, 2 * groups * group), group, groups)


class _Sweeps:
    """Of all parameters, in pieces that fit the scratch."""

    def __init__(
        self, backend: Backend, numbered: list[tuple[int, Tensor]], noise: str, scratch_bytes: int
    ) -> None:
        self._backend, self._numbered = backend, numbered
        self._noise, self._scratch_bytes = noise, scratch_bytes

    def shift(self, place: Place, eps: Number, times: float) -> None:
        for theta, z, grid in self._pieces(place):
            e = _snap(z.mul_(eps), grid)
            theta.put(_snap(theta.take(), grid).add_(e.mul_(times)))

    def update(self, place: Place, eps: Number, rate: Number, decay: Number, restore: bool) -> None:
        for theta, z, grid in self._pieces(place):
            e = _snap(z * eps, grid)
            old = theta.take().add_(e) if restore else _snap(theta.take(), grid)
            wanted = _snap(z.mul_(eps - rate).sub_(old * decay), grid)
            theta.put(old.add_(wanted.sub_(e)))

    def learn(self, place: Place, rate: Number, decay: Number) -> None:
        seed, step, stream = place
        for theta, z, _ in self._pieces(place):
            old, n = theta.take(), len(z)
            new = old.sub_(z.mul_(rate).add_(old * decay))
            g, end = theta.first // _noise.GROUP, -(-theta.last // _noise.GROUP)
            at = (seed, step, theta.number, stream + ROUNDING, g, end, z.device)
            u = _noise.parts(2, *at).flatten()[:n]
            theta.put(stochastic(new, u, theta.tensor.dtype))

    def fill(self, place: Place) -> None:
        for theta, z, _ in self._pieces(place):
            theta.put(z)

    @torch.no_grad()
    def _pieces(self, place: Place) -> Iterator[tuple["_Piece", Tensor, float | None]]:
        """Pieces of all parameters, each with its noise in the type to compute in, and its grid."""
        seed, step, stream = place
        group = _noise.GROUP
        for t, parameter in self._numbered:
            wide = parameter.dtype == torch.float64
            dtype, grid = torch.float64 if wide else torch.float32, GRID.get(parameter.dtype)
            # a group's peak: words, noise, what is computed, and where it goes (tested)
            shared = 2 * (self._noise == "gaussian-16")
            peak = (8 + 4 * wide + 4 * (not parameter.is_contiguous()) + shared) * 1024
            groups = max(1, self._scratch_bytes // peak)
            for first, last in self._backend.pieces(parameter.numel(), group, groups):
                g, end = first // group, -(-last // group)
                z = _noise.draw(self._noise, seed, step, t, stream, g, end, parameter.device)
                piece = _Piece(parameter.detach(), t, first, last, dtype)
                yield piece, z[: last - first].to(dtype), grid


def _total(a: Tensor) -> Tensor:
    """The sums of columns, a row after the other."""
    total = torch.zeros_like(a[0])
    for row in a:
        total += row
    return total


def _in_halves(a: Tensor) -> Tensor:
    """The sums of rows: the second half onto the first, again and again; the middle stays."""
    while (n := a.shape[1]) > 1:
        half = n // 2
        a = torch.cat([a[:, :half] + a[:, n - half :], a[:, half : n - half]], 1)
    return a[:, 0]


def _rated(x: Tensor, rate: Rate) -> Tensor:
    """x times / 2^shift, int64."""
    return shift(x * rate.times, rate.shift, "pseudo-stochastic", wide=True)


def _snap(x: Tensor, grid: float | None) -> Tensor:
    """Round to the grid, in place."""
    return x if grid is None else x.mul_(1 / grid).round_().mul_(grid)


class _Piece:
    """Elements ``first`` to ``last`` - 1 of a tensor in row-major order, whatever its strides."""

    def __init__(
        self, tensor: Tensor, number: int, first: int, last: int, dtype: torch.dtype
    ) -> None:
        self.number, self.first, self.last, self.dtype = number, first, last, dtype
        if tensor.is_contiguous():
            self.tensor = tensor.view(-1)
            self.at: slice | Tensor = slice(first, last)
        else:
            last_place = sum((n - 1) * stride for n, stride in _axes(tensor))
            self.tensor = tensor.as_strided((last_place + 1,), (1,))
            self.at = _places(tensor, first, last)

    def take(self) -> Tensor:
        """A copy, in the type to compute in."""
        return self.tensor[self.at].to(self.dtype, copy=True)

    def put(self, values: Tensor) -> None:
        self.tensor[self.at] = values.to(self.tensor.dtype)


def _axes(tensor: Tensor) -> list[tuple[int, int]]:
    return list(zip(tensor.shape, tensor.stride(), strict=True))


def _places(tensor: Tensor, first: int, last: int) -> Tensor:
    """Where elements ``first`` to ``last`` - 1 stand in memory, counted from the first of all."""
    rest = torch.arange(first, last, device=tensor.device)
    at = torch.zeros_like(rest)
    for n, stride in reversed(_axes(tensor)):
        at.add_(rest % n, alpha=stride)
        rest.div_(n, rounding_mode="floor")
    return at
