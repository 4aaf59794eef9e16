"""Stand-ins for the compiled kernels, for a step on shapes alone (`ezo.plan`).

Tensors without numbers have no address to give. `ezo.kernels.compiled` allocates every result
itself, so that a kernel that writes nothing leaves the bytes of a step as they are; what remains to
be counted is its time.
"""

from collections.abc import Callable
from typing import Any

# A core of a processor, roughly, as in `ezo.plan`: for comparing a step with another's.
PRODUCT_SECONDS = 1 / 40e9  # a multiply-add of a layer's product
ACCUMULATOR_SECONDS = 0.5e-9  # an accumulator's bias, ReLU and part in a maximum
GRADIENT_SECONDS = 1 / 5e9  # a multiply-add of a weight's gradient
REQUANTIZE_SECONDS = 0.2e-9  # an accumulator requantized
MOVE_SECONDS = 0.5e-9  # a number put elsewhere
ADD_SECONDS = 0.3e-9  # a number of a sum of two
POOL_SECONDS = 4e-9  # a number of which the largest of a block, and its place, are sought
SWEEP_SECONDS = 1.2e-9  # a float weight, for one of a step's three sweeps
SPARSE_SECONDS = 0.6e-9  # an int8 weight, likewise
UPDATE_SECONDS = 3e-9  # a BP weight
NODE_SECONDS = 1 / 20e9  # an example's part in a weight's update from nodes
LOSS_SECONDS = 10e-9  # a logit, of the loss's value or its gradient


class Native:
    """Each of the kernels by its own arguments (csrc/module.cpp).

    Args:
        spend: is told the seconds that a kernel would take, roughly.
    """

    def __init__(self, spend: Callable[[float], None]) -> None:
        self._spend = spend

    def table(self, *targets: list[tuple[Any, ...]]) -> int:
        return sum(n for some in targets for _, n, *_ in some)

    def shift(self, n: int, *_: Any) -> None:
        self._spend(n * SWEEP_SECONDS)

    update = learn = fill = shift

    def sparse_shift(self, weights: list[tuple[int, int, int, int]], *_: Any) -> None:
        self._spend(SPARSE_SECONDS * sum(n for _, _, n, _ in weights))

    sparse_update = sparse_shift

    def words(self, place: Any, out: int, n: int) -> None:
        self._spend(n * SPARSE_SECONDS)

    def product(self, x: tuple[int, ...], layer: tuple[Any, ...], after: Any, *_: Any) -> int:
        """Largest accumulator: 0, by which no layer needs another shift than in the pass before."""
        places, products = _sizes(x, layer)
        _, pool, _, shift = after
        requantized = 0 if shift < 0 else places / pool**2
        self._spend(
            places * (products * PRODUCT_SECONDS + ACCUMULATOR_SECONDS)
            + requantized * REQUANTIZE_SECONDS
        )
        return 0

    def requantize(self, acc: int, out: int, n: int, shift: int) -> None:
        self._spend(n * REQUANTIZE_SECONDS)

    def add(self, a: int, b: int, out: int, n: int, *_: Any) -> int:
        self._spend(n * ADD_SECONDS)
        return 0

    def average(self, x: tuple[int, ...], channels: int, *more: int) -> int:
        _, n, height, width = x
        self._spend(n * height * width * channels * MOVE_SECONDS)
        return 0

    def point_error(self, *numbers: int) -> int:
        n, points, outputs, inputs, _ = numbers[-5:]
        self._spend(n * inputs * (outputs * GRADIENT_SECONDS + points * MOVE_SECONDS))
        return 0

    def linear_gradient(self, *numbers: int) -> None:
        n, _, outputs, inputs, _ = numbers[-5:]
        self._spend(n * outputs * inputs * GRADIENT_SECONDS)

    def convolution_gradient(
        self, grad_output: int, x: tuple[int, ...], layer: tuple[Any, ...], *_: Any
    ) -> None:
        places, products = _sizes(x, layer)
        self._spend(places * products * GRADIENT_SECONDS)

    def bp_update(self, weight: int, fraction: int, gradient: int, n: int, *_: int) -> None:
        self._spend(n * UPDATE_SECONDS)

    def loss(self, logits: int, n: int, classes: int, *_: Any) -> int:
        self._spend(n * classes * LOSS_SECONDS)
        return 1

    loss_error = loss

    def node_shift(self, y: int, n: int, *_: Any) -> None:
        self._spend(n * MOVE_SECONDS)

    def node_update(
        self, layer: tuple[int, ...], seen: tuple[int, ...], differences: int, *_: Any
    ) -> None:
        (outputs, inputs), examples = layer[-2:], seen[-2]
        self._spend(outputs * inputs * (examples * NODE_SECONDS + SPARSE_SECONDS))

    def output_shift(self, y: int, on: int, n: int, *_: Any) -> None:
        self._spend(n * SWEEP_SECONDS)

    def output_errors(self, seen: tuple[int, ...], *_: Any) -> None:
        rows, inputs, units = seen[-3:]
        self._spend(rows * (inputs + units) * SWEEP_SECONDS)

    def transpose(self, x: int, out: int, n: int, rows: int, columns: int, *_: int) -> None:
        self._spend(n * rows * columns * MOVE_SECONDS)

    def max_pool(self, x: tuple[int, ...], channels: int, *rest: int) -> None:
        _, n, height, width = x
        self._spend(n * height * width * channels * POOL_SECONDS)

    def max_pool_backward(self, *numbers: int) -> None:
        n, height, width, channels, _ = numbers[-5:]
        self._spend(n * height * width * channels * MOVE_SECONDS)


def _sizes(x: tuple[int, ...], layer: tuple[Any, ...]) -> tuple[int, int]:
    """A layer's outputs at all places, and the products of each."""
    _, images, height, width = x
    channels, outputs, (high, wide, down, across, top, bottom, left, right), *_ = layer
    rows = (height + top + bottom - high) // down + 1
    columns = (width + left + right - wide) // across + 1
    return images * outputs * rows * columns, high * wide * channels
