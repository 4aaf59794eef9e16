"""What becomes of each operation of a float model: a node of an integer network, or nothing.

They have the names and arguments of torch's functions; the first one is the `Builder` that they put
nodes into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ezo.int8.layers import Conv2d, Linear
from ezo.int8.maps import Add, AvgPool2d, Flatten, MaxOverPoints, MaxPool2d, ReLU, ReLU6

if TYPE_CHECKING:
    from ezo.int8.convert import Builder


@dataclass(eq=False)
class Value:
    """What stands for a tensor of the float model: the output of the node ``name``.

    ``layout`` is ``swapped`` for points that are (N, C, P) in the float model, ``kept`` for (N, C,
    1) after a maximum over them; else as in integers. ``features`` are those that an example must
    have, where forward says so. ``pad`` are zeros that the float model has at its top, its bottom,
    its left and its right, and the node has not.
    """

    name: str
    layout: str = ""
    features: int | None = None
    pad: tuple[int, int, int, int] | None = None

    @property
    def turned(self) -> bool:
        """Whether it is not as the node gives it."""
        return bool(self.layout) or self.pad is not None


class Unfit(Exception):
    """Why an operation has no integer form."""


BATCH, OTHER = object(), object()  # the number of examples; what forward may have, but not use
SIZES = (BATCH, *[OTHER] * 8)


def _one(size: Any) -> Any:
    """The number that a size has in each of its dimensions, else None."""
    sizes = set(size) if isinstance(size, (tuple, list)) else {size}
    return sizes.pop() if len(sizes) == 1 else None


def _need(condition: bool, words: str) -> None:
    if not condition:
        raise Unfit(f"expected {words}")


def _need_plain(x: Value) -> None:
    _need(x.pad is None, "zeros at the sides before a convolution, and nothing between")
    _need(x.layout != "swapped", "points (N, P, C), got them turned; turn them back")
    _need(x.layout != "kept", "(N, C), got a maximum with keepdim=True; flatten it")


def _linear(net: Builder, input: Value, weight: Any, bias: Any = None) -> Value:
    _need_plain(input)
    fits = input.features in (None, weight.shape[1])
    _need(fits, f"{weight.shape[1]} features, got {input.features} from a view; use flatten(1)")
    return net.put_weighted(input, Linear, weight, bias)


def _convolution(
    net: Builder,
    input: Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Value:
    kernel = tuple(weight.shape[2:])
    if weight.dim() == 3:
        fits = kernel == (1,) and _one(stride) == 1 == groups and _one(padding) == 0
        _need(fits, "a pointwise convolution: kernel 1, stride 1, one group, no padding")
        _need(input.layout == "swapped", "points (N, P, C) turned by x.transpose(1, 2) before")
        return net.put_weighted(input, Linear, weight, bias)
    _need_plain(replace(input, pad=None))
    _need(_one(dilation) == 1, "no dilation")
    down, across = (stride, stride) if isinstance(stride, int) else tuple(stride)
    around = _around(kernel, padding, input.pad)
    below = (around[0] < kernel[0], around[1] < kernel[0], around[2] < kernel[1])
    _need(all((*below, around[3] < kernel[1])), "a padding below the kernel's size")
    same = around[0] if len(set(around)) == 1 else around
    return net.put_weighted(input, Conv2d, weight, bias, same, (down, across), groups)


def _around(kernel: Any, padding: Any, before: Any) -> tuple[int, int, int, int]:
    """Zeros at the top, the bottom, the left and the right, with those of a pad before."""
    if padding == "same":
        both = [((k - 1) // 2, k // 2) for k in kernel]
    elif padding == "valid":
        both = [(0, 0), (0, 0)]
    else:
        both = [(p, p) for p in ((padding, padding) if isinstance(padding, int) else padding)]
    (top, bottom), (left, right) = both
    more = before or (0, 0, 0, 0)
    return top + more[0], bottom + more[1], left + more[2], right + more[3]


def _pad(net: Builder, input: Value, pad: Any, mode: str = "constant", value: Any = None) -> Value:
    fits = mode == "constant" and not value and len(pad) in (2, 4) and min(pad) >= 0
    _need(fits and input.pad is None, "zeros at the sides of images, (left, right, top, bottom)")
    _need_plain(input)
    left, right, top, bottom = (*pad, 0, 0)[:4]
    return replace(input, pad=(top, bottom, left, right))


def _batch_norm(
    net: Builder,
    input: Value,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    net.norm()
    return input


def _add(net: Builder, input: Value, other: Any, alpha: Any = 1) -> Value:
    _need(isinstance(other, Value), f"two tensors to add up, got {other!r}")
    _need(alpha == 1, "alpha of 1")
    alike = (input.layout, input.pad) == (other.layout, other.pad) == ("", None)
    _need(alike, "tensors of one layout to add up; flatten or turn them back before")
    return net.put(input, Add(), "", other.name)


def _add_in_place(net: Builder, input: Value, other: Any, alpha: Any = 1) -> Value:
    return _renamed(input, _add(net, input, other, alpha))


def _renamed(input: Value, y: Value) -> Value:
    """After an operation in place: whoever holds the input has the output."""
    input.name = y.name
    return input


def _relu(net: Builder, input: Value, inplace: bool = False) -> Value:
    _need(input.pad is None, "zeros at the sides before a convolution, and nothing between")
    y = net.put(input, ReLU())
    return _renamed(input, y) if inplace else y


def _relu6(net: Builder, input: Value, inplace: bool = False) -> Value:
    _need(input.pad is None, "zeros at the sides before a convolution, and nothing between")
    y = net.put(input, ReLU6())
    return _renamed(input, y) if inplace else y


def _hardtanh(
    net: Builder, input: Value, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Value:
    _need((min_val, max_val) == (0, 6), f"ReLU6, from 0 to 6, got {min_val} to {max_val}")
    return _relu6(net, input, inplace)


def _avg_pool2d(
    net: Builder,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: Any = None,
) -> Value:
    _need_plain(input)
    size = (kernel_size,) * 2 if isinstance(kernel_size, int) else tuple(kernel_size)
    step = (stride,) * 2 if isinstance(stride, int) else tuple(stride or size)
    _need(step == size, "blocks that don't overlap, kernel_size = stride")
    fits = _one(padding) == 0 and not ceil_mode and divisor_override is None
    _need(fits, "no padding, no ceil_mode and no divisor_override")
    return net.put(input, AvgPool2d(size))


def _adaptive_avg_pool2d(net: Builder, input: Value, output_size: Any) -> Value:
    _need_plain(input)
    _need(_one(output_size) == 1, "the mean of a whole image, an output size of 1")
    return net.put(input, AvgPool2d())


def _mean(net: Builder, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    _need_plain(input)
    fits = isinstance(dim, (tuple, list)) and sorted(d % 4 for d in dim) == [2, 3]
    _need(fits, "the mean of whole images (N, C, H, W), over dimensions 2 and 3")
    y = net.put(input, AvgPool2d())
    return y if keepdim else net.put(y, Flatten())


def _max_pool2d(
    net: Builder,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    _need_plain(input)
    size = _one(kernel_size)
    fits = size is not None and _one(stride or size) == size and _one(dilation) == 1
    _need(fits, "square blocks that don't overlap, kernel_size = stride")
    fits = _one(padding) == 0 and not ceil_mode and not return_indices
    _need(fits, "no padding, no ceil_mode and no return_indices")
    return net.put(input, MaxPool2d(size))


def _amax(net: Builder, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
    swapped = input.layout == "swapped"
    fits = input.layout != "kept" and _one(dim) in ((2, -1) if swapped else (1,))
    _need(fits, "a maximum over points: dim 1 of (N, P, C), or 2 where transpose(1, 2) turned it")
    _need(swapped or not keepdim, "keepdim=False")
    return net.put(input, MaxOverPoints(), layout="kept" if keepdim else "")


def _max(net: Builder, input: Value, dim: Any = None, keepdim: bool = False) -> tuple[Any, Any]:
    return _amax(net, input, dim, keepdim), OTHER


def _transpose(net: Builder, input: Value, dim0: int, dim1: int) -> Value:
    fits = {dim0, dim1} in ({1, 2}, {-1, -2}) and input.layout != "kept"
    _need(fits, "points (N, P, C), turned by transpose(1, 2)")
    return replace(input, layout="" if input.layout else "swapped")


def _permute(net: Builder, input: Value, *dims: Any) -> Value:
    order = tuple(dims[0] if len(dims) == 1 else dims)
    return _transpose(net, input, *((1, 2) if order == (0, 2, 1) else (0, 0)))


def _flatten(net: Builder, input: Value, start_dim: int = 0, end_dim: int = -1) -> Value:
    _need((start_dim, end_dim) == (1, -1), "all dimensions but the first to be flattened")
    _need(input.layout != "swapped", "points (N, P, C), got them turned; turn them back")
    return net.put(input, Flatten(), layout="")


def _view(net: Builder, input: Value, *shape: Any) -> Value:
    batch, rest = (*(shape[0] if isinstance(shape[0], (tuple, list)) else shape), None, None)[:2]
    fits = type(rest) is int and (batch is BATCH or batch == -1 != rest)
    _need(fits, "the shape (x.shape[0], -1), or flatten(1)")
    return replace(_flatten(net, input, 1), features=None if rest == -1 else rest)


def _squeeze(net: Builder, input: Value, dim: Any = None) -> Value:
    _need(input.layout == "kept" and dim in (2, -1), "squeeze(2) after a maximum over points")
    return replace(input, layout="")


def _dropout(
    net: Builder, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Value:
    if training and p > 0:
        net.warnings.append(
            f"{net.here}, dropout of {p}, is left out, for integers train without it; convert "
            "model.eval() to say so"
        )
    return input


def _attribute(of: Any, name: str) -> Any:
    if isinstance(of, tuple):
        return of[0] if name == "values" else OTHER
    return SIZES if name == "shape" else OTHER


LOOKS: dict[str, Callable[..., Any]] = {
    "size": lambda of, dim=None: SIZES if dim is None else SIZES[dim],
    "getattr": _attribute,
    "getitem": lambda of, key: of[key] if isinstance(of, tuple) else OTHER,
}
OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    "relu": _relu,
    "relu_": lambda net, input: _relu(net, input, True),
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "batch_norm": _batch_norm,
    "pad": _pad,
    "add": _add,
    "add_": _add_in_place,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
    "mean": _mean,
    "max_pool2d": _max_pool2d,
    "amax": _amax,
    "max": _max,
    **dict.fromkeys(("transpose", "swapaxes"), _transpose),
    "permute": _permute,
    "flatten": _flatten,
    **dict.fromkeys(("view", "reshape"), _view),
    "squeeze": _squeeze,
    "contiguous": lambda net, input: input,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d"), _dropout),
}
