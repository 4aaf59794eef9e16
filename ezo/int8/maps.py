"""Layers of an integer network that have no weights."""

from dataclasses import replace

from ezo import kernels
from ezo.int8 import ops
from ezo.int8.layers import Layer, at_work
from ezo.int8.tensor import AtPoints, Int8Tensor


class ReLU(Layer):
    """max(x, 0)."""

    @at_work
    def forward(self, x: Int8Tensor) -> Int8Tensor:
        y = ops.relu(x.m)
        if self.keeping:
            self._kept = y
        return Int8Tensor(y, x.e)

    @at_work
    def keep_output(self, y: Int8Tensor) -> None:
        """What backward needs, where a layer with weights did the work."""
        self._kept = y.m

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        return replace(grad_output, m=ops.relu_backward(grad_output.m, self._take()))


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
