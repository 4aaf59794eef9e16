"""Layers of an integer network that have no weights."""

from dataclasses import replace

from ezo import kernels
from ezo.int8 import ops, sums
from ezo.int8.layer import Layer, Requantized, at_work, ceiling, held_within, shift_within
from ezo.int8.rounding import LARGEST, batch_shift
from ezo.int8.tensor import AtPoints, Int8Tensor


class ReLU(Layer):
    """max(x, 0).

    Attributes:
        most: the bound on it, in real numbers, or 0 for none.
    """

    most = 0

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y = held_within(Int8Tensor(ops.relu(x.m), x.e), self.most)
        if self.keeping:
            self.keep_output(y)
        return y

    @at_work
    def keep_output(self, y: Int8Tensor) -> None:
        """What backward needs, where a layer before did the work."""
        self._kept = y.m, y.e

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        y, e = self._take()
        m = ops.relu_backward(grad_output.m, y)
        if self.most and (largest := ceiling(e, self.most)) < LARGEST:
            m = m.masked_fill_(y >= largest, 0)
        return replace(grad_output, m=m)


class ReLU6(ReLU):
    """min(max(x, 0), 6), where 6 is floored to a mantissa, of at least 1 (`layer.ceiling`).

    After a layer that requantizes, the batch's shift is at most the one by which 6 still fits: then
    6 is a mantissa, 96 2^-4, or no number comes near it.
    """

    most = 6


class Add(Requantized):
    """The sum of two tensors: at the smaller of their exponents, then requantized."""

    @at_work
    def forward(  # type: ignore[override]
        self, a: Int8Tensor, b: Int8Tensor, relu: bool = False, most: int = 0
    ) -> Int8Tensor:
        e, left = self._meet(a, b)
        bound = shift_within(e, most)
        m = self.fitted(lambda s: kernels.add(a.m, b.m, left, relu, s), e, e, bound)
        return held_within(Int8Tensor(m, e + self.shift), most)

    @at_work
    def part(
        self, a: Int8Tensor, b: Int8Tensor, relu: bool, most: int = 0
    ) -> tuple[Int8Tensor, int]:
        """Of some of the batch's examples, by ``shift``; and the shift that they need."""
        e, left = self._meet(a, b)
        m, bits = kernels.add(a.m, b.m, left, relu, self.shift)
        need = min(batch_shift(bits), shift_within(e, most))
        self._note(e, e + self.shift)
        return held_within(Int8Tensor(m, e + self.shift), most), need

    @staticmethod
    def _meet(a: Int8Tensor, b: Int8Tensor) -> tuple[int, tuple[int, int]]:
        if a.m.shape != b.m.shape:
            raise ValueError(
                f"expected tensors of one shape to add up, got {tuple(a.m.shape)} and "
                f"{tuple(b.m.shape)}; let both have as many channels and positions"
            )
        e = sums.meet(a.e, b.e)
        return e, (a.e - e, b.e - e)

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        """Of either tensor."""
        return grad_output


def add_up(a: Int8Tensor, b: Int8Tensor) -> Int8Tensor:
    """The sum of two errors, requantized by the shift that fits."""
    return Add().forward(a, b)


class AvgPool2d(Requantized):
    """The mean of each block of ``size``, height and width; of whole images where it is None."""

    def __init__(self, size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.size = size

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        if self.keeping:
            self._kept = (x.m.shape,)
        size, e = self._of(x), x.e - sums.MEAN_BITS
        m = self.fitted(lambda s: kernels.average(x.m, size, s), x.e, e)
        return Int8Tensor(m, e + self.shift)

    @at_work
    def part(self, x: Int8Tensor) -> tuple[Int8Tensor, int]:
        """Of some of the batch's examples, by ``shift``; and the shift that they need."""
        m, bits = kernels.average(x.m, self._of(x), self.shift)
        e = x.e - sums.MEAN_BITS + self.shift
        self._note(x.e, e)
        return Int8Tensor(m, e), batch_shift(bits)

    def _of(self, x: Int8Tensor) -> tuple[int, int]:
        high, wide = x.m.shape[2:]
        size = self.size or (high, wide)
        if size[0] > high or size[1] > wide:
            raise ValueError(
                f"expected images of {size[0]} x {size[1]} positions or more to average, got "
                f"{high} x {wide}; give larger images or a smaller block"
            )
        return size

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        (shape,) = self._take()
        m, k = sums.average_backward(grad_output.m, shape, self.size or tuple(shape[2:]))
        return Int8Tensor(m, grad_output.e - k)


class MaxPool2d(Layer):
    """The largest of each block."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y, where = kernels.max_pool2d(x.m, self.size)
        if self.keeping:
            self._kept = where, x.m.shape
        return Int8Tensor(y, x.e)

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        where, shape = self._take()
        return Int8Tensor(
            kernels.max_pool2d_backward(grad_output.m, where, shape, self.size), grad_output.e
        )


class MaxOverPoints(Layer):
    """(N, P, C) to (N, C)."""

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y, where = ops.max_over_points(x.m)
        if self.keeping:
            self._kept = where, x.m.shape[1], False
        return Int8Tensor(y, x.e)

    @at_work
    def keep_output(self, y: AtPoints) -> None:
        """What backward needs, where a layer with weights did the work; errors stay at points."""
        self._kept = y.where, y.points, True

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        where, points, stay = self._take()
        if stay:
            return AtPoints(grad_output.m, grad_output.e, where, points)
        return Int8Tensor(ops.max_over_points_backward(grad_output.m, where, points), grad_output.e)


class Flatten(Layer):
    """(N, ...) to (N, the rest in one dimension)."""

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        if self.keeping:
            self._kept = (x.m.shape,)
        return Int8Tensor(kernels.flatten(x.m), x.e)

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        (shape,) = self._take()
        return Int8Tensor(grad_output.m.view(shape), grad_output.e)
