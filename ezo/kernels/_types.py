"""What the operations of `ezo.kernels` take."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from torch import Tensor

# Where in the noise stream (`ezo.noise`): (seed, step, stream), below 2^64, 2^32, 2^32. No class,
# which would cost a small network's sweep a tenth of its time. The step may lie on a device, int64.
Place = tuple[int, Any, int]
# A number, or one that was computed on a device and stays there: float64, ().
Number = float | Tensor
Weights = Sequence[Tensor]
# A layer's noise of `ezo.int8.nodes`: its place, its number, and `sparse` of its `signs`.
Signs = tuple[Place, int, int]
# Noise of `ezo.nodes` on a layer's outputs, from the batch's first example on: its kind, the
# layer's number in the stream, and the place.
OutputNoise = tuple[str, int, Place]
# Sparse noise (an `ezo.int8.perturb.SparseNoise`) of a step, and the number of the first tensor.
Drawn = tuple[Any, Place, int]


class Layer(NamedTuple):
    """A layer of int8 weights: (O, C, K, K') a convolution, (O, C) a linear layer.

    Fields:
        bias: int8, (O,), or None; added as bias 2^bias_left.
        padding: of a convolution, zeros on each side; or at the top, the bottom, the left and the
            right.
        stride: of a convolution, down and across.
        groups: of a convolution, of whose G C input channels each O / G outputs have C.
    """

    weight: Tensor
    bias: Tensor | None = None
    bias_left: int = 0
    padding: int | tuple[int, int, int, int] = 0
    stride: tuple[int, int] = (1, 1)
    groups: int = 1


class After(NamedTuple):
    """What follows a layer's product: keep what is positive, the largest of blocks of a size.

    ``over_points`` keeps the largest over points, (N, O), and ``where`` the first point of each.
    ``most`` bounds the shift by which the batch is requantized; what exceeds +-127 then is held
    there.
    """

    relu: bool = False
    pool: int = 1
    over_points: bool = False
    where: bool = False
    most: int = 62


NOTHING = After()


class Seen(NamedTuple):
    """What a pass showed of a linear layer with nodes.

    Fields:
        x: its input, int8, (N, K); with ``where`` (N, P, K).
        y: what its ReLU let through, int8, (N, U), or None.
        where: the point with the largest output, int32, (N, U), or None.
    """

    x: Tensor
    y: Tensor | None = None
    where: Tensor | None = None


class Shown(NamedTuple):
    """What a pass showed of a float layer with nodes, and what its examples' losses say.

    Fields:
        x: its input, (rows, K). on: units that its ReLU let through, (rows, U), or None.
        scale: of each row's noise in its error, (rows,).
    """

    x: Tensor
    on: Tensor | None
    scale: Tensor


class Rate(NamedTuple):
    """x times / 2^shift."""

    times: int
    shift: int


class NodeRates(NamedTuple):
    """Of `ezo.int8.nodes`: of the weights, of the bias, and of the bias along the inputs' mean."""

    weight: Rate
    bias: Rate
    mean: Rate


class Sweeps(Protocol):
    """Sweeps over the float weights that one backend takes (`ezo.perturb`)."""

    def shift(self, place: Place, eps: Number, times: float) -> None: ...
    def update(
        self, place: Place, eps: Number, rate: Number, decay: Number, restore: bool
    ) -> None: ...
    def learn(self, place: Place, rate: Number, decay: Number) -> None: ...
    def fill(self, place: Place) -> None: ...
