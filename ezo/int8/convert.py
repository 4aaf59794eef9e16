"""From a float model to the integer network nearest to it, by tracing its forward (torch.fx).

A module of torch leaves the trace of the function that it calls, so that the operations below have
the functions' names and arguments. Points are (N, P, C) in integers; a float model may turn them to
(N, C, P) between its input and the maximum over them.
"""

import inspect
import itertools
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import fx, nn

from ezo import check
from ezo.int8.layers import Conv2d, Layer, Linear
from ezo.int8.maps import Flatten, MaxOverPoints, MaxPool2d, ReLU
from ezo.int8.network import INPUT, Network, Node
from ezo.int8.rounding import LARGEST
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.int8.trace import Trace, function, own

LEAST_GAIN = 1 / 16  # of a layer whose weights are all at their bound
MOST_AT_BOUND = 1 / 4  # of a layer's weights
FEW = 8  # weights say nothing


def from_float(model: nn.Module, headroom: int = 0) -> Network:
    """The integer network nearest to a float one.

    The model's forward is run once, on no numbers. It must be a chain: each value is used once.
    As modules, functions or methods it may take ``linear``, ``conv2d`` with stride 1 and square
    kernels, ``conv1d`` with kernel 1 on transposed points, ``relu``, ``max_pool2d`` of blocks side
    by side, the maximum over points by ``amax`` or ``max``, ``flatten``, ``view`` and ``reshape``
    to (N, the rest), and any module whose own forward does. Dropout and ``Identity`` are left out:
    integers train without dropout, and a model in training mode that has some warns.

    Args:
        model: the float model; it is not changed. What requires no gradient, no step moves.
        headroom: how far below 127 weights stay, 0 to 126, so that a perturbation of that size is
            not clipped (`ezo.int8.perturb`).

    Raises:
        ValueError: it can't be traced, or does what can't be converted; the message names the
            module, the line of its forward, and the reason. Or the headroom is none.

    Warns:
        UserWarning: a layer can hardly be trained: its weights are too small for an exponent that
            training does not change, or many of them start at their bound.

    >>> class Own(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.first, self.last = nn.Linear(4, 8), nn.Linear(8, 2)
    ...     def forward(self, x):
    ...         return self.last(self.first(x.flatten(1)).relu())
    >>> [(node.name, *node.inputs) for node in from_float(Own()).nodes]
    [('flatten', 'input'), ('first', 'flatten'), ('relu', 'first'), ('last', 'relu')]
    """
    check.integer("headroom", headroom, 0, LARGEST - 1)
    chain = _Chain(Trace(model), LARGEST - headroom)
    for words in chain.warnings:
        warnings.warn(words, stacklevel=2)
    return Network(chain.nodes)


@dataclass(eq=False)
class _Value:
    """What stands for a tensor of the float model: the output of the node ``name``.

    ``layout`` is ``swapped`` for points that are (N, C, P) in the float model, ``kept`` for (N, C,
    1) after a maximum over them; else as in integers. ``features`` are those that an example must
    have, where forward says so.
    """

    name: str
    layout: str = ""
    features: int | None = None


class _Unfit(Exception):
    """Why an operation has no integer form."""


_BATCH, _OTHER = object(), object()  # the number of examples; what forward may have, but not use
_SIZES = (_BATCH, *[_OTHER] * 8)


class _Chain:
    """The nodes of a traced model.

    Attributes:
        last: the one value that may be used.
        warnings: what to tell the user.
    """

    def __init__(self, trace: Trace, largest: int) -> None:
        self.nodes: list[Node] = []
        self.warnings: list[str] = []
        self.last = _Value(INPUT)
        self._largest, self._model = largest, trace.holder
        self._unused = {p: name for name, p in trace.holder.named_parameters()}
        values: dict[fx.Node, Any] = {}
        for node in trace.graph.nodes:
            self.here, described = trace.place(node)
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                values[node] = self._value(node, args, kwargs)
            except (_Unfit, TypeError, LookupError, AttributeError) as reason:
                known = ", ".join(sorted(name for name in _OPERATIONS if name[-1] != "_"))
                raise ValueError(
                    f"can't convert {described}{trace.lines[node]}: {reason}; convertible are "
                    f"chains of {known}, as modules or functions; build the model from these, or "
                    "train it in fp32"
                ) from reason

    def _value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return self.last
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._model)
        if node.op == "output":
            if args[0] is not self.last or self.last.layout:
                raise _Unfit("expected the logits, the last layer's output, and nothing else")
            return None
        name = function(node)
        if name in _LOOKS:
            return _LOOKS[name](*args, **kwargs)
        if name not in _OPERATIONS:
            raise _Unfit(f"no integer form of {name} is known")
        bound = inspect.signature(_OPERATIONS[name]).bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, x, *given = bound.args
        if x is not self.last:
            got = f"{x.name}'s output" if isinstance(x, _Value) else "another"
            raise _Unfit(f"expected a chain, so that it takes {self.last.name}'s output, got {got}")
        return _OPERATIONS[name](self, x, *given)

    def put(self, x: _Value, layer: Layer, owner: str = "", **changes: Any) -> _Value:
        """A layer at the end of the chain, and ``changes`` to the value that it gives."""
        taken = {INPUT, *(node.name for node in self.nodes)}
        name = owner or self.here
        if name in taken:
            name = next(new for i in itertools.count(1) if (new := f"{name}_{i}") not in taken)
        self.nodes.append(Node(layer, (x.name,), name))
        return self.change(x, name=name, **changes)

    def change(self, x: _Value, **changes: Any) -> _Value:
        self.last = replace(x, **changes)
        return self.last

    def put_weighted(
        self, x: _Value, layer: Callable[..., Layer], weight: Any, bias: Any, *more: int
    ) -> _Value:
        """A bias is no finer than the weight, for a step moves both by the same."""
        if any(p is not None and p not in self._unused for p in (weight, bias)):
            raise _Unfit("expected weights that are parameters, each used once")
        name = own(self._unused.pop(weight), ".weight")
        w = quantize(weight, self._largest)
        b = None if bias is None else quantize(bias, self._largest, lowest_exponent=w.e)
        self._unused.pop(bias, None)
        self._warn_of_a_dead_start(name or self.here, w)
        if weight.dim() == 3:  # a pointwise convolution's
            w = Int8Tensor(w.m.squeeze(2), w.e)
        made = layer(w, b, *more)
        own_names = zip(("weight", "bias"), (weight, bias), strict=True)
        made.frozen = frozenset(n for n, p in own_names if p is not None and not p.requires_grad)
        return self.put(x, made, name, features=None)

    def _warn_of_a_dead_start(self, name: str, w: Int8Tensor) -> None:
        bound, n = self._largest * 2.0**w.e, w.m.numel()
        gain = bound * math.sqrt(n / max(len(w.m), 1))
        at_bound = int((w.m.abs() == self._largest).sum())
        if n <= FEW:
            return
        if not w.m.any():
            what = f"are all 0, and the smallest step of one is 2^{w.e}"
        elif gain < LEAST_GAIN:
            what = (
                f"stay within {self._largest} x 2^{w.e} = {bound:.2g}, for their exponent is fixed:"
                f" its output is at most {gain:.2g} times its input in size"
            )
        elif at_bound > MOST_AT_BOUND * n:
            what = f"are at their bound, +-{self._largest}, in {at_bound / n:.0%} of all cases"
        else:
            return
        self.warnings.append(
            f"{name} can hardly be trained: its {n:,} weights {what}; initialise it wider, as "
            "nn.init.xavier_uniform_ does, or give its integer layer make_room(bits)"
        )


def _one(size: Any) -> Any:
    """The number that a size has in each of its dimensions, else None."""
    sizes = set(size) if isinstance(size, (tuple, list)) else {size}
    return sizes.pop() if len(sizes) == 1 else None


def _need(condition: bool, words: str) -> None:
    if not condition:
        raise _Unfit(f"expected {words}")


def _need_plain(x: _Value) -> None:
    _need(x.layout != "swapped", "points (N, P, C), got them turned; turn them back")
    _need(x.layout != "kept", "(N, C), got a maximum with keepdim=True; flatten it")


def _linear(chain: _Chain, input: _Value, weight: Any, bias: Any = None) -> _Value:
    _need_plain(input)
    fits = input.features in (None, weight.shape[1])
    _need(fits, f"{weight.shape[1]} features, got {input.features} from a view; use flatten(1)")
    return chain.put_weighted(input, Linear, weight, bias)


def _convolution(
    chain: _Chain,
    input: _Value,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> _Value:
    k, around = _one(tuple(weight.shape[2:])), _one(padding)
    square = k is not None and _one(stride) == 1 and groups == 1
    if weight.dim() == 3:
        fits = square and (k, around) == (1, 0)
        _need(fits, "a pointwise convolution: kernel 1, stride 1, one group, no padding")
        _need(input.layout == "swapped", "points (N, P, C) turned by x.transpose(1, 2) before")
        return chain.put_weighted(input, Linear, weight, bias)
    _need_plain(input)
    _need(square, "a square kernel, stride 1 and one group")
    _need(_one(dilation) == 1, "no dilation")
    fits = type(around) is int and around < k
    _need(fits, "a padding that is one number below the kernel's size")
    return chain.put_weighted(input, Conv2d, weight, bias, around)


def _relu(chain: _Chain, input: _Value, inplace: bool = False) -> _Value:
    y = chain.put(input, ReLU())
    if inplace:  # whoever holds the input has the output
        input.name, chain.last = y.name, input
    return chain.last


def _max_pool2d(
    chain: _Chain,
    input: _Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> _Value:
    _need_plain(input)
    size = _one(kernel_size)
    fits = size is not None and _one(stride or size) == size and _one(dilation) == 1
    _need(fits, "square blocks that don't overlap, kernel_size = stride")
    fits = _one(padding) == 0 and not ceil_mode and not return_indices
    _need(fits, "no padding, no ceil_mode and no return_indices")
    return chain.put(input, MaxPool2d(size))


def _amax(chain: _Chain, input: _Value, dim: Any = None, keepdim: bool = False) -> _Value:
    swapped = input.layout == "swapped"
    fits = input.layout != "kept" and _one(dim) in ((2, -1) if swapped else (1,))
    _need(fits, "a maximum over points: dim 1 of (N, P, C), or 2 where transpose(1, 2) turned it")
    _need(swapped or not keepdim, "keepdim=False")
    return chain.put(input, MaxOverPoints(), layout="kept" if keepdim else "")


def _max(chain: _Chain, input: _Value, dim: Any = None, keepdim: bool = False) -> tuple[Any, Any]:
    return _amax(chain, input, dim, keepdim), _OTHER


def _transpose(chain: _Chain, input: _Value, dim0: int, dim1: int) -> _Value:
    fits = {dim0, dim1} in ({1, 2}, {-1, -2}) and input.layout != "kept"
    _need(fits, "points (N, P, C), turned by transpose(1, 2)")
    return chain.change(input, layout="" if input.layout else "swapped")


def _permute(chain: _Chain, input: _Value, *dims: Any) -> _Value:
    order = tuple(dims[0] if len(dims) == 1 else dims)
    return _transpose(chain, input, *((1, 2) if order == (0, 2, 1) else (0, 0)))


def _flatten(chain: _Chain, input: _Value, start_dim: int = 0, end_dim: int = -1) -> _Value:
    _need((start_dim, end_dim) == (1, -1), "all dimensions but the first to be flattened")
    _need(input.layout != "swapped", "points (N, P, C), got them turned; turn them back")
    return chain.put(input, Flatten(), layout="")


def _view(chain: _Chain, input: _Value, *shape: Any) -> _Value:
    batch, rest = (*(shape[0] if isinstance(shape[0], (tuple, list)) else shape), None, None)[:2]
    fits = type(rest) is int and (batch is _BATCH or batch == -1 != rest)
    _need(fits, "the shape (x.shape[0], -1), or flatten(1)")
    return chain.change(_flatten(chain, input, 1), features=None if rest == -1 else rest)


def _squeeze(chain: _Chain, input: _Value, dim: Any = None) -> _Value:
    _need(input.layout == "kept" and dim in (2, -1), "squeeze(2) after a maximum over points")
    return chain.change(input, layout="")


def _dropout(
    chain: _Chain, input: _Value, p: float = 0.5, training: bool = True, inplace: bool = False
) -> _Value:
    if training and p > 0:
        chain.warnings.append(
            f"{chain.here}, dropout of {p}, is left out, for integers train without it; convert "
            "model.eval() to say so"
        )
    return input


def _attribute(of: Any, name: str) -> Any:
    if isinstance(of, tuple):
        return of[0] if name == "values" else _OTHER
    return _SIZES if name == "shape" else _OTHER


_LOOKS: dict[str, Callable[..., Any]] = {
    "size": lambda of, dim=None: _SIZES if dim is None else _SIZES[dim],
    "getattr": _attribute,
    "getitem": lambda of, key: of[key] if isinstance(of, tuple) else _OTHER,
}
_OPERATIONS: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    **dict.fromkeys(("conv1d", "conv2d"), _convolution),
    "relu": _relu,
    "relu_": lambda chain, input: _relu(chain, input, True),
    "max_pool2d": _max_pool2d,
    "amax": _amax,
    "max": _max,
    **dict.fromkeys(("transpose", "swapaxes"), _transpose),
    "permute": _permute,
    "flatten": _flatten,
    **dict.fromkeys(("view", "reshape"), _view),
    "squeeze": _squeeze,
    "contiguous": lambda chain, input: input,
    **dict.fromkeys(("dropout", "dropout1d", "dropout2d"), _dropout),
}
