"""A step on shapes alone: its peak of memory, taken apart, and roughly its time."""

import contextlib
import math
import traceback
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch._subclasses import fake_tensor
from torch.utils import _device
from torch.utils.flop_counter import flop_registry

from ezo import kernels
from ezo.livebytes import LiveBytes, Peak, Prepare, step_peak, tensors

# A core of a processor, roughly: to compare what passes cost.
FLOP_SECONDS = 1 / 40e9
BYTE_SECONDS = 1 / 8e9
OPERATION_SECONDS = 10e-6
POOL_SECONDS = 4.5e-9  # a number among which a block's largest is sought, one by one

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
_BAGS = (
    torch.ops.aten._embedding_bag.default,
    torch.ops.aten._embedding_bag_forward_only.default,
)
# Results that lie in memory of as many places as the first argument has: a mean or sum of losses
# where those of each place were, an image where its columns had room.
_IN_ITS_PLACE = (
    torch.ops.aten.binary_cross_entropy.default,
    torch.ops.aten.mse_loss.default,
    torch.ops.aten.smooth_l1_loss.default,
    torch.ops.aten.soft_margin_loss.default,
    torch.ops.aten.col2im.default,
)
_BLOCK_MAXIMA = ("max_pool2d_with_indices", "max_pool3d_with_indices")
_ANY = torch.ops.aten.any.default
_BATCH_NORM_BACKWARD = torch.ops.aten.native_batch_norm_backward.default
_GLU_BACKWARD = torch.ops.aten.glu_backward.default
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
        ValueError: a shape depends on values, or something reads them.
    """
    shapes = _Shapes()
    with contextlib.ExitStack() as stack:
        if torch.get_default_device().type != "cpu":  # where a kernel's result names none
            stack.enter_context(torch.device("cpu"))  # under which no module takes a fast path
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
        except RuntimeError as error:
            if "its data is not allocated" not in str(error):
                raise
            # What torch makes of several operators no mode sees; then the line that calls it.
            frames = traceback.extract_tb(error.__traceback__)
            lines = [f.line for f in frames if f.filename != _device.__file__]
            raise ValueError(
                "expected a step whose shapes follow from its input's, but values are read by "
                f"{shapes.running or lines[-1]}; measure it instead"
            ) from error
    return Simulation(peak, shapes.seconds, tuple(sorted(shapes.hidden)))


class _Shapes(LiveBytes):
    """Counts bytes and seconds of a step on fake tensors.

    Attributes:
        seconds: since the restart.
        hidden: names of operators of `_WORKSPACE` that keep one, and of those that make sparse
            tensors, whose entries torch's fake ones don't count.
        running: the operator that runs, or that failed.
    """

    seconds = 0.0
    running: Any = None

    def __init__(self) -> None:
        super().__init__()
        self.hidden: set[str] = set()
        self._any: Callable[[], Any] = lambda: None

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
        if func is _ITEM:  # a shape has no value; of conditions, none is said to hold
            return False if args[0] is self._any() else _one(args[0].dtype)
        self.running = func
        result = func(*args, **kwargs)
        self.running = None
        name = func._overloadpacket.__name__
        keeps = _WORKSPACE.get(name)
        if keeps is not None and keeps():
            self.hidden.add(name)
        if _any_sparse(result) and not (self.hidden and _any_sparse(args)):
            self.hidden.add(name)
        if func in _BAGS:
            _size_bags(func, result, *args, **kwargs)
        if func in _IN_ITS_PLACE:
            count = max(args[0].numel(), result.numel())
            result.untyped_storage().resize_(count * result.element_size())
        if func is _BATCH_NORM_BACKWARD and result[0] is not None:  # the fake's is grad's
            layout = suggest_memory_format(args[1])
            result = torch.empty_like(args[1], memory_format=layout), *result[1:]
        if func is _GLU_BACKWARD:  # the fake's is the input's
            result = torch.empty_like(result, memory_format=torch.contiguous_format)
        if func is _ANY and args[0].dtype == torch.bool:
            self._any = weakref.ref(result)
        if not func.is_view and func is not _DEVICE:
            moved = sum(t.numel() * t.element_size() for t in tensors(args, kwargs, result))
            flops = _flops(func, args, kwargs, result)
            self.seconds += flops * FLOP_SECONDS + moved * BYTE_SECONDS + OPERATION_SECONDS
            if name in _BLOCK_MAXIMA:
                self.seconds += result[0].numel() * math.prod(args[1]) * POOL_SECONDS
        return result


def _one(dtype: torch.dtype) -> bool | int | float:
    if dtype == torch.bool:
        return True
    return 1.0 if dtype.is_floating_point else 1


def _any_sparse(*values: Any) -> bool:
    return any(t.layout is not torch.strided for t in tensors(*values))


def _size_bags(
    func: Any,
    result: Sequence[Tensor],
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = 0,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> None:
    """Give an embedding bag's results the storages that they have in truth.

    torch's fake ones have the bytes of their shapes, of which two are others than the real ones.
    The source is make_offset2bag_out and its neighbours in ATen/native/EmbeddingBag.cpp.
    """
    _, offset2bag, bag_size, max_indices = result
    fast = mode == 0 and padding_idx < 0 and weight.stride(1) == 1
    fast = fast and weight.dtype in (torch.float32, torch.float16, torch.bfloat16)
    fast = fast and (per_sample_weights is None or per_sample_weights.stride(0) == 1)
    counts = {offset2bag: 0 if fast else indices.numel() + 1, bag_size: offsets.numel()}
    if mode == 0 and func is _BAGS[1]:
        counts[max_indices] = offsets.numel()
    for tensor, count in counts.items():
        tensor.untyped_storage().resize_(count * tensor.element_size())


def _flops(func: Any, args: Any, kwargs: Any, result: Any) -> float:
    """Floating-point operations of products and convolutions; others' time is in their bytes."""
    if func is _CONVOLUTION_BACKWARD:  # torch's own count forgets groups
        gradient, x, weight, *_ = args
        transposed, wanted = args[7], args[10]
        places = x.numel() if transposed else gradient.numel()
        return 2.0 * places * math.prod(weight.shape[1:]) * (wanted[0] + wanted[1])
    formula = flop_registry.get(func._overloadpacket)
    return float(formula(*args, **kwargs, out_val=result)) if formula else 0.0
