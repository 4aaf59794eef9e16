"""From a float model to the integer network nearest to it, by tracing its forward (torch.fx).

A module of torch leaves the trace of the function that it calls; `ezo.int8.operations` has what
becomes of each. Points are (N, P, C) in integers; a float model may turn them to (N, C, P) between
its input and the maximum over them.
"""

import inspect
import itertools
import math
import operator
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from ezo import check
from ezo.int8.layer import Layer
from ezo.int8.network import INPUT, Network, Node
from ezo.int8.operations import LOOKS, OPERATIONS, Unfit, Value
from ezo.int8.rounding import LARGEST
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.int8.trace import Trace, function, own

LEAST_GAIN = 1 / 16  # of a layer whose weights are all at their bound
MOST_AT_BOUND = 1 / 4  # of a layer's weights
FEW = 8  # weights say nothing


def from_float(model: nn.Module, headroom: int = 0) -> Network:
    """The integer network nearest to a float one.

    The model's forward is run once, on no numbers. As modules, functions or methods it may take
    ``linear``, ``conv2d`` without dilation, of any kernel, stride, padding and groups, ``conv1d``
    with kernel 1 on transposed points, ``batch_norm`` after one of these, ``relu``, ``relu6``,
    sums of two tensors, ``max_pool2d`` and ``avg_pool2d`` of blocks side by side, the mean of whole
    images, the maximum over points by ``amax`` or ``max``, ``flatten``, ``view`` and ``reshape`` to
    (N, the rest), ``pad`` with zeros before a convolution, and any module whose own forward does.

    Batch norm is folded, with its running statistics, into the layer before it; the network's
    ``folded`` says which into which. Dropout and ``Identity`` are left out. Integers train without
    batch norm and dropout, and a model in training mode that has some warns.

    Args:
        model: the float model; it is not changed. What requires no gradient, no step moves.
        headroom: how far below 127 weights stay, 0 to 126, so that a perturbation of that size is
            not clipped (`ezo.int8.perturb`).

    Raises:
        ValueError: it can't be traced, or does what can't be converted; the message names the
            module, the line of its forward, and the reason. Or the headroom is none.

    Warns:
        UserWarning: a layer can hardly be trained: its weights are too small for an exponent that
            training does not change, or many of them start at their bound. Or a model in
            training mode has batch norm or dropout.

    Examples:
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
    found = Builder(Trace(model), LARGEST - headroom)
    if found.folded and model.training:
        parts = ", ".join(f"{norm} into {layer}" for norm, layer in found.folded)
        found.warnings.append(
            f"batch norm is folded, by its running statistics, into the layer before it, {parts}, "
            "for integers train without it; convert model.eval() to say so"
        )
    for words in found.warnings:
        warnings.warn(words, stacklevel=2)
    return Network(found.nodes, found.folded)


class Builder:
    """The nodes of a traced model.

    Attributes:
        warnings: what to tell the user.
        folded: batch norms, and the layer that each is part of.
        here: a name for the layer that is being made.
    """

    def __init__(self, trace: Trace, largest: int) -> None:
        self.nodes: list[Node] = []
        self.warnings: list[str] = []
        self.folded: list[tuple[str, str]] = []
        self._largest, self._model, self._trace = largest, trace.holder, trace
        self._unused = {p: name for name, p in trace.holder.named_parameters()}
        self._norms: dict[fx.Node, str] = {}  # those that are folded, by the layer's name
        self._values: dict[fx.Node, Any] = {}
        for node in trace.graph.nodes:
            self._node = node
            self.here, described = trace.place(node)
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._values.__getitem__)
            try:
                self._values[node] = self._value(node, args, kwargs)
            except (Unfit, TypeError, LookupError, AttributeError) as reason:
                known = ", ".join(sorted(name for name in OPERATIONS if name[-1] != "_"))
                raise ValueError(
                    f"can't convert {described}{trace.lines[node]}: {reason}; convertible are "
                    f"{known}, as modules or functions; build the model from these, or train it in "
                    "fp32"
                ) from reason

    def _value(self, node: fx.Node, args: Any, kwargs: Any) -> Any:
        if node.op == "placeholder":
            return Value(INPUT)
        if node.op == "get_attr":
            return operator.attrgetter(str(node.target))(self._model)
        if node.op == "output":
            last = self.nodes[-1].name if self.nodes else INPUT
            if not isinstance(args[0], Value) or args[0].name != last or args[0].turned:
                raise Unfit("expected the logits, the last layer's output, and nothing else")
            return None
        name = function(node)
        if name in LOOKS:
            return LOOKS[name](*args, **kwargs)
        if node.op == "call_module" and self._trace.norm_of(node):
            name, args, kwargs = "batch_norm", (*args, None, None), {}
        if name not in OPERATIONS:
            raise Unfit(f"no integer form of {name} is known")
        bound = inspect.signature(OPERATIONS[name]).bind(self, *args, **kwargs)
        bound.apply_defaults()
        _, x, *given = bound.args
        if not isinstance(x, Value):
            raise Unfit("expected it to take a layer's output, got another value")
        return OPERATIONS[name](self, x, *given)

    def put(self, x: Value, layer: Layer, owner: str = "", *others: str, **changes: Any) -> Value:
        """A layer that takes x, and ``others``; what it gives is as x, but for ``changes``."""
        taken = {INPUT, *(node.name for node in self.nodes)}
        name = owner or self.here
        if name in taken:
            name = next(new for i in itertools.count(1) if (new := f"{name}_{i}") not in taken)
        self.nodes.append(Node(layer, (x.name, *others), name))
        return replace(x, name=name, **changes)

    def put_weighted(
        self, x: Value, layer: Callable[..., Layer], weight: Any, bias: Any, *more: Any
    ) -> Value:
        """A bias is no finer than the weight, for a step moves both by the same."""
        if any(p is not None and p not in self._unused for p in (weight, bias)):
            raise Unfit("expected weights that are parameters, each used once")
        name = own(self._unused.pop(weight), ".weight")
        own_names = zip(("weight", "bias"), (weight, weight if bias is None else bias), strict=True)
        frozen = frozenset(n for n, p in own_names if not p.requires_grad)
        self._unused.pop(bias, None)
        of_weight, of_bias = self._with_norm(weight, bias)
        w = quantize(of_weight, self._largest)
        b = None if of_bias is None else quantize(of_bias, self._largest, lowest_exponent=w.e)
        self._warn_of_a_dead_start(name or self.here, w)
        if weight.dim() == 3:  # a pointwise convolution's
            w = Int8Tensor(w.m.squeeze(2), w.e)
        made: Any = layer(w, b, *more)
        made.frozen = frozen if b is not None else frozen - {"bias"}
        y = self.put(x, made, name, features=None, pad=None)
        if norm := self._norm():
            self._norms[norm] = y.name
        return y

    def _norm(self) -> fx.Node | None:
        """The batch norm that alone takes the layer's output."""
        users = list(self._node.users)
        if len(users) != 1 or users[0].args[:1] != (self._node,):
            return None
        return users[0] if self._trace.norm_of(users[0]) else None

    def _with_norm(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Those of the layer and the batch norm behind it in one.

        gamma (W x + b - mean) / sqrt(variance + eps) + beta, by channel.
        """
        norm = self._norm()
        found = None if norm is None else self._trace.norm_of(norm)
        if found is None:
            return weight, bias
        mean, variance, gamma, beta, eps = found
        if mean is None or variance is None:
            raise Unfit("expected a batch norm with running statistics behind it, got one without")
        with torch.no_grad():
            times = torch.rsqrt(variance.to(torch.float64) + eps)
            times = times if gamma is None else gamma * times
            moved = -mean * times if bias is None else (bias - mean) * times
            of_weight = weight * times.view(-1, *[1] * (weight.dim() - 1))
            return of_weight, moved if beta is None else moved + beta

    def norm(self) -> None:
        """A batch norm stands here: it is folded already.

        Raises:
            Unfit: it is not.
        """
        if self._node not in self._norms:
            raise Unfit(
                "expected a batch norm right after a linear layer or a convolution whose output "
                "nothing else takes, so that it can be folded into that"
            )
        self.folded.append((self.here, self._norms[self._node]))

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
