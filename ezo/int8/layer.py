"""What layers of an integer network share; those that requantize; a bounded ReLU's bound."""

import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ezo import phases
from ezo.int8.rounding import LARGEST, batch_shift
from ezo.int8.tensor import Int8Tensor, exponents
from ezo.kernels import NOTHING

EVERY_PASS = frozenset(
    {
        *("keeping", "_kept", "shift", "exponents", "_error_shift", "weight_gradient"),
        *("bias_gradient", "node"),
    }
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


class Requantized(Layer):
    """A layer whose int32 accumulators become int8 by a shift.

    Attributes:
        shift: by which the last pass requantized.
        exponents: of the last pass's input and output.
        static_exponents: of input and output in eval mode, where the output is requantized by the
            shift that they imply and not by the batch's; None before `Network.calibrate`.
        requantized: whether the output is int8; else it is the int32 accumulators.
    """

    def __init__(self) -> None:
        super().__init__()
        self.static_exponents: tuple[int, int] | None = None
        self.requantized = True
        self.shift = 0
        self.exponents = 0, 0

    def static_shift(self, e: int, of_accumulators: int) -> int:
        """Eval mode's, for an input with exponent ``e``.

        Raises:
            ValueError: there was no calibration, or one with another exponent.
        """
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
        return max(self.static_exponents[1] - of_accumulators, 0)

    def fitted(
        self, run: Callable[[int], tuple[Tensor, int]], e: int, acc: int, most: int = NOTHING.most
    ) -> Tensor:
        """What ``run`` makes by the shift that fits; it is told one, and gives what it was to be.

        Args:
            e, acc: exponents of the input and of the accumulators.
            most: bound on the shift.
        """
        if not self.training:
            self.shift = self.static_shift(e, acc)
            m, _ = run(self.shift)
        else:
            m, bits = run(self.shift)
            if (s := min(batch_shift(bits), most)) != self.shift:
                del m  # so that a second time needs no more memory than the first
                self.shift = s
                m, _ = run(s)
        self._note(e, acc + self.shift)
        return m

    def _note(self, before: int, after: int) -> None:
        """Exponents of a pass; to set an attribute takes longer than to look at one."""
        if self.exponents != (before, after):
            self.exponents = before, after

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self.static_exponents is not None:
            static = torch.tensor(self.static_exponents, dtype=torch.int32)
            destination[f"{prefix}static_exponents"] = static

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *how: Any) -> None:
        static = state_dict.pop(key := f"{prefix}static_exponents", None)
        self.static_exponents = None
        if static is not None:
            before, after = exponents(key, static, 2)
            self.static_exponents = before, after
        super()._load_from_state_dict(state_dict, prefix, *how)


def shift_within(e: int, most: int) -> int:
    """Bound on the shift of accumulators at exponent ``e``, of which a ReLU bounded by ``most``
    needs no more.

    >>> shift_within(-12, 6), shift_within(-12, 0)  # 127 2^-4 is just above 6
    (8, 62)
    """
    return max(most.bit_length() - LARGEST.bit_length() - e, 0) if most else NOTHING.most


def ceiling(e: int, most: int) -> int:
    """The largest mantissa at exponent ``e`` of a ReLU bounded by ``most``: floored, but 1 or more.

    >>> ceiling(-4, 6), ceiling(-5, 6), ceiling(1, 6), ceiling(3, 6)
    (96, 127, 3, 1)
    """
    return min(max(most << -e if e < 0 else most >> e, 1), LARGEST)


def held_within(y: Int8Tensor, most: int) -> Int8Tensor:
    """A ReLU's output within its bound, in place; 0 for none."""
    if most and (largest := ceiling(y.e, most)) < LARGEST:
        y.m.clamp_(max=largest)
    return y
