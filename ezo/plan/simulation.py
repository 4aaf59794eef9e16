"""A step on shapes alone: its peak of memory, taken apart, and roughly its time."""

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses import fake_tensor
from torch.utils.flop_counter import flop_registry

from ezo import kernels
from ezo.livebytes import LiveBytes, Peak, Prepare, step_peak, tensors

# A core of a processor, roughly: to compare what passes cost.
FLOP_SECONDS = 1 / 40e9
BYTE_SECONDS = 1 / 8e9
OPERATION_SECONDS = 5e-6

_DEPENDS_ON_VALUES = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
)
_DEVICE = torch.ops.prim.device.default  # a question, answered without work
_ITEM = torch.ops.aten._local_scalar_dense.default
# Operators that keep a workspace for backward whose size they alone know, and when.
_WORKSPACE: dict[str, Callable[[], bool]] = {
    "mkldnn_rnn_layer": torch.is_grad_enabled,
    **dict.fromkeys(("_cudnn_rnn", "miopen_rnn", "cudnn_batch_norm"), lambda: True),
}
_CONVOLUTION_BACKWARD = torch.ops.aten.convolution_backward.default


@dataclass(frozen=True)
class Simulation:
    """A step on shapes alone: what it needs, and a rough time on one core, for comparing steps.

    ``hidden`` are operators that keep memory which shapes don't show: the peak is at least this.
    """

    peak: Peak
    seconds: float
    hidden: tuple[str, ...] = ()


def simulate(prepare: Prepare) -> Simulation:
    """A step on shapes alone, after one that warms up.

    ``prepare`` runs where every new tensor is fake; it should change none that was made before.

    Raises:
        ValueError: a shape depends on values.
    """
    shapes = _Shapes()
    # The device: whatever the default, where a kernel's result names none.
    with torch.device("cpu"), contextlib.ExitStack() as stack:
        stack.enter_context(kernels.simulated(shapes.spend))  # first: some look at numbers before
        stack.enter_context(warnings.catch_warnings())
        stack.enter_context(fake_tensor.FakeTensorMode(allow_non_fake_inputs=True))
        # Module.__deepcopy__ asks where a tensor lies; for a fake one torch answers, and warns.
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        try:
            peak = step_peak(prepare, shapes)
        except _DEPENDS_ON_VALUES as error:
            raise ValueError(
                "expected a step whose shapes follow from its input's, but a shape depends on "
                f"values: {error.func}; measure it instead"
            ) from error
    return Simulation(peak, shapes.seconds, tuple(sorted(shapes.hidden)))


class _Shapes(LiveBytes):
    """Counts bytes and seconds of a step on fake tensors.

    Attributes:
        seconds: since the restart.
        hidden: names of operators of `_WORKSPACE` that keep one.
    """

    seconds = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A compiled kernel computes, and reads memory that fake tensors don't have: refused."""
        return False

    def restart(self) -> None:
        super().restart()
        self.seconds = 0.0

    def spend(self, seconds: float) -> None:
        """Count what no operation of torch's shows."""
        self.seconds += seconds

    def run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is _ITEM:  # a shape has no value
            return _one(args[0].dtype)
        result = func(*args, **kwargs)
        keeps = _WORKSPACE.get(func._overloadpacket.__name__)
        if keeps is not None and keeps():
            self.hidden.add(func._overloadpacket.__name__)
        if not func.is_view and func is not _DEVICE:
            moved = sum(t.numel() * t.element_size() for t in tensors(args, kwargs, result))
            flops = _flops(func, args, kwargs, result)
            self.seconds += flops * FLOP_SECONDS + moved * BYTE_SECONDS + OPERATION_SECONDS
        return result


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Floating-point operations of products and convolutions; others' time is in their bytes."""
    if func is _CONVOLUTION_BACKWARD:  # torch's own count forgets groups
        gradient, x, weight, *_ = args
        transposed, wanted = args[7], args[10]
        places = x.numel() if transposed else gradient.numel()
        return 2.0 * places * math.prod(weight.shape[1:]) * (wanted[0] + wanted[1])
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0
