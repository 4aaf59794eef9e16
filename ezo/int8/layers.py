"""Layers of an integer network, forward and backward on int8.

Weights are int8 with one fixed exponent a tensor; activations carry theirs along.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ezo import kernels, phases
from ezo.int8 import ops
from ezo.int8.rounding import shift
from ezo.int8.tensor import AtPoints, Int8Tensor, exponents
from ezo.kernels import After

_after = functools.cache(After)  # twice as fast as a new one
EVERY_PASS = frozenset(
    {"keeping", "_kept", "shift", "_error_shift", "weight_gradient", "bias_gradient", "node"}
)


Work = TypeVar("Work", bound=Callable[..., Any])


def at_work(method: Work) -> Work:
    """A layer's work, which `ezo.phases.at_work` tells who listens."""

    @functools.wraps(method)
    def run(self: "Layer", *arguments: Any) -> Any:
        if phases.worker is None:
            return method(self, *arguments)
        with phases.worker(self):
            return method(self, *arguments)

    return run  # type: ignore[return-value]


class Layer(nn.Module):
    """One layer. While ``keeping``, forward remembers what backward needs; backward forgets it."""

    def __init__(self) -> None:
        super().__init__()
        self.keeping = False
        self._kept: Any = None

    def held(self) -> Iterator[tuple[str, Tensor]]:
        """What it holds besides its weights: (kind of `ezo.livebytes.KINDS`, tensor)."""
        kept = self._kept if isinstance(self._kept, tuple) else (self._kept,)
        yield from (("activations", x) for x in kept if isinstance(x, Tensor))

    def __setattr__(self, name: str, value: Any) -> None:
        if name in EVERY_PASS:  # nn.Module's search for parameters costs as much as a small layer
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def _take(self) -> Any:
        """What forward kept, once."""
        kept, self._kept = self._kept, None
        if kept is None:
            raise RuntimeError("expected a forward pass after keep() before backward, got none")
        return kept

    def forward(self, x: Int8Tensor) -> Int8Tensor:
        raise NotImplementedError

    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        """Errors of the output to errors of the input; adds to the weights' gradient.

        Without ``to_input`` nobody needs the errors of the input, and a layer with weights returns
        ``grad_output`` as it came.
        """
        raise NotImplementedError


class Weighted(Layer):
    """A layer whose output is a product with int8 weights, accumulated in int32.

    Attributes:
        weight: int8.
        bias: int8 or None, added to the accumulators at their exponent.
        weight_exponent, bias_exponent: fixed.
        frozen: names of those of weight and bias that no step moves, as ``requires_grad`` False
            says of floats; see ``requires_grad_``.
        static_exponents: of input and output in eval mode, where the output is requantized by the
            shift that they imply and not by the batch's; None before `Network.calibrate`.
        requantized: whether the output is int8; else it is the int32 accumulators.
        shift: by which the last pass requantized.
        node: the noise that passes meet on the output (`ezo.int8.nodes.Node`), or None.
        weight_gradient, bias_gradient: of `ops.sum_type`, the sum over the backward passes, two at
            most unless it is made int64, since they were None. Their exponents play no part in an
            update (NITI), but in that sum.

    Raises:
        SumTooLong: an accumulator of so many products could overflow int32.
    """

    padding = 0

    def __init__(self, weight: Int8Tensor, bias: Int8Tensor | None) -> None:
        super().__init__()
        ops.check_length(weight.m[:1].numel(), bias is not None)
        self.weight = nn.Parameter(weight.m, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.m, requires_grad=False)
        self.weight_exponent = weight.e
        self.bias_exponent = 0 if bias is None else bias.e
        self.frozen: frozenset[str] = frozenset()
        self.static_exponents: tuple[int, int] | None = None
        self.requantized = True
        self.weight_gradient: Int8Tensor | None = None
        self.bias_gradient: Int8Tensor | None = None
        self.shift = self._error_shift = 0  # the last pass's
        self.node: Any = None

    def make_room(self, bits: int) -> None:
        """Let the weights grow to 2^bits times what they could.

        A weight's exponent is fixed, and training makes weights several times larger than they
        began: without room they end at the bound. Rounds weight and bias, to nearest, to an
        exponent higher.
        """
        with torch.no_grad():
            self.weight.copy_(shift(self.weight, bits, "nearest"))
            self.weight_exponent += bits
            if self.bias is not None:
                self.bias.copy_(shift(self.bias, bits, "nearest"))
                self.bias_exponent += bits

    def make_bias_room(self, bits: int) -> None:
        """Let the bias grow to 2^bits times what a weight can; rounds it, to nearest."""
        by = self.weight_exponent + bits - self.bias_exponent
        if self.bias is not None and by > 0:
            with torch.no_grad():
                self.bias.copy_(shift(self.bias, by, "nearest"))
            self.bias_exponent += by

    def requires_grad_(self, requires_grad: bool = True) -> "Weighted":
        """Whether steps move weight and bias, as torch's says of floats; the flag is `frozen`'s."""
        self.frozen = frozenset() if requires_grad else frozenset({"weight", "bias"})
        return self

    def moving(self) -> list[bool]:
        """For each parameter, whether a step moves it."""
        own: Any = self._parameters
        return [name not in self.frozen for name, p in own.items() if p is not None]

    def held(self) -> Iterator[tuple[str, Tensor]]:
        yield from super().held()
        for gradient in (self.weight_gradient, self.bias_gradient):
            if gradient is not None:
                yield "gradients", gradient.m
        if self.node is not None and self.node.seen is not None:
            yield from (("activations", x) for x in self.node.seen if x is not None)

    @at_work
    def forward(
        self, x: Int8Tensor, relu: bool = False, pool: int = 1, over_points: bool = False
    ) -> Int8Tensor:
        """The product, and the ReLU and the maximum that follow it.

        While ``keeping``, maxima over points come with the points they were found at.
        """
        if self.keeping:
            self._kept = x.m, x.e
        e = x.e + self.weight_exponent
        fixed = not self.training
        guess = self._static_shift(x.e) if fixed else self.shift
        node = self.node
        if not self.requantized:
            y = Int8Tensor(kernels.accumulators(x.m, self._layer(e)), e)
            if node is not None:
                node.perturb(x, y, False, None)
            return y
        after = _after(
            relu and node is None,
            pool,
            over_points,
            over_points and (self.keeping or node is not None),
        )
        m, s, where = kernels.product(x.m, self._layer(e), after, guess, fixed)
        self.shift = s
        y = Int8Tensor(m, e + s)
        if node is not None:
            node.perturb(x, y, relu, where)
        if where is None or not self.keeping:
            return y
        return AtPoints(m, e + s, where, x.m.shape[1])

    @at_work
    def part(
        self, x: Int8Tensor, relu: bool, pool: int, over_points: bool
    ) -> tuple[Int8Tensor, int]:
        """Of some of the batch's examples, by ``shift``; and the shift that they need."""
        e = x.e + self.weight_exponent
        after = _after(relu, pool, over_points)
        m, need = kernels.part(x.m, self._layer(e), after, self.shift)
        return Int8Tensor(m, e + self.shift), need

    @at_work
    def backward(self, grad_output: Int8Tensor, to_input: bool = True) -> Int8Tensor:
        x, exponent = self._take()
        layer = self._layer(grad_output.e + self.weight_exponent)
        where, points = (
            (grad_output.where, grad_output.points)
            if isinstance(grad_output, AtPoints)
            else (None, 1)
        )
        weight, bias = kernels.gradients(grad_output.m, x, layer, where)
        products = points * grad_output.m.numel() // max(weight.shape[0], 1)
        room = int(ops.LONGEST_SUM // 2 < products <= ops.LONGEST_SUM)  # int64 has enough
        self.weight_gradient = _sum(self.weight_gradient, weight, grad_output.e + exponent, room)
        if bias is not None:
            self.bias_gradient = _sum(self.bias_gradient, bias, grad_output.e, room)
        if not to_input:
            return grad_output
        m, self._error_shift = kernels.error(grad_output.m, layer, self._error_shift, where, points)
        return Int8Tensor(m, grad_output.e + self.weight_exponent + self._error_shift)

    def _static_shift(self, e: int) -> int:
        if self.static_exponents is None:
            raise ValueError(
                "expected a calibrated network in eval mode, got none; give training examples to "
                "network.calibrate(x), or call network.train() for the batch's own shifts"
            )
        if e != self.static_exponents[0]:
            raise ValueError(
                f"expected an input with exponent {self.static_exponents[0]}, as in calibration, "
                f"got {e}; give ezo.int8.quantize_at(x, network.input_exponent), or calibrate again"
            )
        return max(self.static_exponents[1] - e - self.weight_exponent, 0)

    def _layer(self, e: int) -> kernels.Layer:
        """For accumulators at exponent ``e``."""
        own: Any = self._parameters  # nn.Module's own search costs as much as a small layer
        return kernels.Layer(own["weight"], own.get("bias"), self.bias_exponent - e, self.padding)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        for name, _ in self.named_parameters(recurse=False):
            exponent = torch.tensor(getattr(self, f"{name}_exponent"), dtype=torch.int32)
            destination[f"{prefix}{name}_exponent"] = exponent
        if self.static_exponents is not None:
            static = torch.tensor(self.static_exponents, dtype=torch.int32)
            destination[f"{prefix}static_exponents"] = static

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *how: Any) -> None:
        for name, _ in self.named_parameters(recurse=False):
            key = f"{prefix}{name}_exponent"
            if key in state_dict:
                (e,) = exponents(key, state_dict.pop(key), 1)
                setattr(self, f"{name}_exponent", e)
            elif prefix + name in state_dict:
                raise ValueError(
                    f"expected an exponent to each int8 tensor, got a state dict without {key}; "
                    "take an integer network's state_dict(), or, where this network was built as "
                    "theirs was, load ezo.checkpoint.with_exponents(state, network)"
                )
        static = state_dict.pop(key := f"{prefix}static_exponents", None)
        self.static_exponents = None
        if static is not None:
            before, after = exponents(key, static, 2)
            self.static_exponents = before, after
        super()._load_from_state_dict(state_dict, prefix, *how)


def _sum(old: Int8Tensor | None, new: Tensor, e: int, room: int) -> Int8Tensor:
    """A pass's gradient at exponent ``e`` and an earlier one's, in the place of both.

    The sum has the larger of their exponents, and, in int32, ``room`` bits more; what that shifts
    is rounded to nearest, halves away from zero.
    """
    if old is None:
        return Int8Tensor(new, e)
    top = max(old.e, e) + (room if old.m.dtype == torch.int32 else 0)
    return Int8Tensor(_raised(old.m, top - old.e).add_(_raised(new, top - e)), top)


def _raised(m: Tensor, s: int) -> Tensor:
    """Mantissas at an exponent ``s`` higher, in place."""
    if s == 0:
        return m
    sign = m.sign()
    s = min(s, torch.iinfo(m.dtype).bits)
    return m.abs_().bitwise_right_shift_(s - 1).add_(1).bitwise_right_shift_(1).mul_(sign)


class Linear(Weighted):
    """x W^T + b on the last dimension; the dimensions before it are examples or points."""


class Conv2d(Weighted):
    """Convolution of stride 1 with square kernels."""

    def __init__(self, weight: Int8Tensor, bias: Int8Tensor | None, padding: int) -> None:
        super().__init__(weight, bias)
        self.padding = padding
