"""Stand-ins for the compiled kernels, for a step on shapes alone (`ezo.plan`).

Tensors without numbers have no address to give. `ezo.int8.fast` allocates every result itself, so
that a kernel that writes nothing leaves the bytes of a step as they are; what remains to be counted
is its time.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from ezo import perturb
from ezo.int8 import fast, ops

# A core of a processor, roughly, as in `ezo.plan`: for comparing a step with another's.
PRODUCT_SECONDS = 1 / 40e9  # a multiply-add of a layer's product
SUM_SECONDS = 0.5e-9  # a sum's bias, ReLU and part in a maximum
GRADIENT_SECONDS = 1 / 5e9  # a multiply-add of a weight's gradient
ROUND_SECONDS = 0.2e-9  # a number rounded to int8
MOVE_SECONDS = 0.5e-9  # a number put elsewhere
POOL_SECONDS = 4e-9  # a number of which the largest of a block, and its place, are sought
SWEEP_SECONDS = 0.6e-9  # a ZO weight, for one of a step's three sweeps
UPDATE_SECONDS = 3e-9  # a BP weight
LOSS_SECONDS = 10e-9  # a logit, of the loss's value or its gradient

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def shapes_only(spend: Callable[[float], None]) -> Iterator[None]:
    """Within `ezo.perturb.shapes_only`, kernels of this thread leave memory alone.

    Args:
        spend: is told the seconds that a kernel would take, roughly.
    """
    ops._int_mm_is_exact()  # found out by numbers, before there are none
    with _one_at_a_time:
        kernels = fast._kernels
        if kernels is not None:
            fast._kernels = _Either(kernels, _Shapes(spend))
        try:
            yield
        finally:
            fast._kernels = kernels


class _Either:
    """Stand-ins for who plays a step on shapes; the kernels for another thread, which trains."""

    def __init__(self, kernels: Any, shapes: "_Shapes") -> None:
        self._kernels, self._shapes = kernels, shapes

    def __getattr__(self, name: str) -> Any:
        return getattr(self._kernels if perturb.world() is None else self._shapes, name)


class _Shapes:
    """Each of the integer kernels by its own arguments (`ezo.int8.fast`)."""

    def __init__(self, spend: Callable[[float], None]) -> None:
        self._spend = spend

    def int8_product(
        self,
        x: int,
        images: int,
        height: int,
        width: int,
        channels: int,
        weight: int,
        outputs: int,
        kernel: int,
        padding: int,
        bias: int,
        bias_left: int,
        relu: bool,
        pool: int,
        over_points: bool,
        shift: int,
        *rest: Any,
    ) -> int:
        """Largest sum: 0, by which no layer needs another shift than in the pass before."""
        grown = 2 * padding - kernel + 1
        sums = images * outputs * (height + grown) * (width + grown)
        rounded = 0 if shift < 0 else sums / pool**2
        self._spend(
            sums * (kernel * kernel * channels * PRODUCT_SECONDS + SUM_SECONDS)
            + rounded * ROUND_SECONDS
        )
        return 0

    def int8_rescale(self, acc: int, out: int, n: int, *rest: Any) -> None:
        self._spend(n * ROUND_SECONDS)

    def int8_words(self, out: int, n: int, *rest: Any) -> None:
        self._spend(n * SWEEP_SECONDS)

    def int8_weight_gradient(
        self,
        err: int,
        where: int,
        x: int,
        weight: int,
        bias: int,
        n: int,
        points: int,
        outputs: int,
        inputs: int,
        *rest: Any,
    ) -> None:
        self._spend(n * outputs * inputs * GRADIENT_SECONDS)

    def int8_point_error(
        self,
        err: int,
        where: int,
        weight: int,
        below: int,
        n: int,
        points: int,
        outputs: int,
        inputs: int,
        *rest: Any,
    ) -> int:
        self._spend(n * inputs * (2 * outputs * GRADIENT_SECONDS + points * MOVE_SECONDS))
        return 0

    def int8_conv_gradient(
        self,
        err: int,
        x: int,
        weight: int,
        bias: int,
        n: int,
        height: int,
        width: int,
        channels: int,
        outputs: int,
        kernel: int,
        padding: int,
        *rest: Any,
    ) -> None:
        grown = 2 * padding - kernel + 1
        places = n * (height + grown) * (width + grown)
        self._spend(places * outputs * kernel * kernel * channels * GRADIENT_SECONDS)

    def int8_flatten(self, x: int, out: int, n: int, positions: int, channels: int) -> None:
        self._spend(n * positions * channels * MOVE_SECONDS)

    def int8_max_pool(
        self, x: int, y: int, where: int, n: int, height: int, width: int, channels: int, *_: int
    ) -> None:
        self._spend(n * height * width * channels * POOL_SECONDS)

    def int8_max_pool_backward(
        self, err: int, where: int, to: int, n: int, height: int, width: int, channels: int, *_: int
    ) -> None:
        self._spend(n * height * width * channels * MOVE_SECONDS)

    def int8_bp_update(self, weight: int, fraction: int, gradient: int, n: int, *_: int) -> None:
        self._spend(n * UPDATE_SECONDS)

    def int8_loss(self, logits: int, n: int, classes: int, *rest: Any) -> int:
        self._spend(n * classes * LOSS_SECONDS)
        return 1

    def int8_loss_error(self, logits: int, n: int, classes: int, *rest: Any) -> None:
        self._spend(n * classes * LOSS_SECONDS)

    def int8_shift(self, tensors: list[tuple[int, int, int, int]], *rest: Any) -> None:
        self._spend(SWEEP_SECONDS * sum(n for _, _, n, _ in tensors))

    int8_update = int8_shift
