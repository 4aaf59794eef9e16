"""Peak memory of a training step, four ways.

- ``peak_tensor_bytes``: every storage that is alive, at the moment when they add up to the most.
  Exact and repeatable; buffers inside an operation (a convolution's scratch, for one) don't show.
  ``bytes_KIND`` take it apart.
- ``analytic_bytes``: the same of a step played on shapes alone, which computes nothing
  (`ezo.plan.simulate`). ``analytic_bytes_KIND`` take it apart, ``analytic_module_bytes`` by module.
- ``heap_peak_bytes``: the tensors that stand before some steps, and memray's high-water mark of
  what the steps take from the heap, buffers inside operations included; warmed up before.
- ``rss_peak_bytes``: the process's resident memory, sampled. Shown, never to be gated: it holds
  the libraries and what the allocator keeps.

On CUDA there is no heap to see; ``cuda_peak_bytes`` is torch's ``max_memory_allocated`` of a step,
``cuda_requested_bytes`` the same before it rounds up, ``cuda_workspace_bytes`` what of it is no
tensor's, and ``analytic_over_cuda`` a ratio, with what explains it (`bench.cuda`).
"""

import functools
import gc
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, is_traceable_wrapper_subclass
from torch.utils._pytree import tree_iter

from bench.cuda import allocated, explained, is_cuda, planned
from bench.isolate import told
from bench.workload import Workload
from ezo.livebytes import Peak, step_peak
from ezo.rows import Row

METHODS = ("inference", "full-zo", "elastic-*", "full-bp", "full-bp-checkpoint")
SIDE_BY_SIDE = True  # bytes don't depend on neighbours
UNIT = "B"
NO_HEAP = "not measured: on CUDA tensors are not on the heap; see cuda_peak_bytes"
AGREEMENT = 0.02  # of the analytic figure with the exact one
STEPS = 3
SAMPLE_SECONDS = 1e-3


def measure(case: Workload) -> list[Row]:
    """The figures of a step, parameters, gradients, optimiser state and batch included."""
    try:
        apart = step_peak(case.prepare)  # first: it sees what is made within, also what stays
    except ModuleNotFoundError as error:
        return [case.row("peak_tensor_bytes", None, UNIT, f"not installed: {error.name}")]
    gc.collect()
    model, step = case.prepare()
    exact = warm_peak_bytes(model, step)
    resident = _resident(step)
    last = [case.row("rss_peak_bytes", resident, UNIT, "sampled; libraries included")]
    given_out = allocated(step, case.device) if is_cuda(case.device) else None
    del model, step
    gc.collect()
    last.insert(0, _heap(case, exact))
    found = [case.row("peak_tensor_bytes", exact, UNIT)]
    found += [case.row(f"bytes_{kind}", size, UNIT) for kind, size in apart.kinds.items()]
    found += _analytic(case, exact, apart)
    if given_out is not None:
        plan = next(row.value for row in found if row.metric == "analytic_bytes")
        ratio, note = explained(int(plan), given_out) if plan else (None, "no analytic bytes")
        last += [
            case.row("cuda_peak_bytes", given_out.peak, UNIT, "max_memory_allocated"),
            case.row("cuda_requested_bytes", given_out.requested, UNIT),
            case.row("cuda_workspace_bytes", given_out.workspaces, UNIT),
            case.row("analytic_over_cuda", ratio, "1", note),
        ]
    return [*found, *last]


def _analytic(case: Workload, exact: int, apart: Peak) -> list[Row]:
    """The rows of the analytic figure; where it is off, with the kind that explains it."""
    try:
        peak = planned(case)
    except Exception as error:  # a peer may do what shapes alone don't allow
        why = f"can't be played on shapes: {told(error)}"
        return [case.row("analytic_bytes", None, UNIT, why)]
    note, off = "", peak.peak_bytes / exact - 1
    if abs(off) > AGREEMENT:
        kind = max(peak.kinds, key=lambda kind: abs(peak.kinds[kind] - apart.kinds[kind]))
        sizes = f"{peak.kinds[kind]:,} B in place of {apart.kinds[kind]:,} B"
        note = f"{off:+.1%} off, mostly by {kind}: {sizes}"
    found = [case.row("analytic_bytes", peak.peak_bytes, UNIT, note)]
    found += [case.row(f"analytic_bytes_{kind}", size, UNIT) for kind, size in peak.kinds.items()]
    for (module, kind), size in peak.modules.items():
        note = f"{kind} of {module or 'no module'}"
        row = case.row("analytic_module_bytes", size, UNIT, note, module=module, kind=kind)
        found.append(row)
    return found


def _heap(case: Workload, exact: int) -> Row:
    """What `heap_bytes` says of the step."""
    if is_cuda(case.device):
        return case.row("heap_peak_bytes", None, UNIT, NO_HEAP)
    try:
        peak = heap_bytes(*case.prepare())
    except ModuleNotFoundError as error:
        return case.row("heap_peak_bytes", None, UNIT, f"not installed: {error.name}")
    note = f"exact tensor bytes {peak - exact:+,} B: buffers inside operations, Python's objects"
    return case.row("heap_peak_bytes", peak, UNIT, note)


def heap_bytes(model: nn.Module, step: Callable[[], Any]) -> int:
    """Tensors that stand before some steps, and memray's high-water mark of what the steps take.

    How the model was made doesn't show: an integer model is made from a float one. The steps are
    tracked twice, and the lower mark counts: some processes were seen to allocate a megabyte more
    once (what, was not found), which is no part of a step.
    """
    for _ in range(2):
        step()
    for parameter in model.parameters():
        parameter.grad = None  # made again by the step
    gc.collect()
    standing = peak_bytes(lambda: None)
    return standing + min(_high_water(model, step) for _ in range(2))


def high_water(device: str) -> tuple[str, Callable[[nn.Module, Callable[[], Any]], int]]:
    """What sees buffers inside operations there, by name: the heap, on CUDA the allocator."""
    if is_cuda(device):
        return "allocated", functools.partial(_allocated_bytes, device)
    return "heap", heap_bytes


def _allocated_bytes(device: str, model: nn.Module, step: Callable[[], Any]) -> int:
    """``max_memory_allocated`` of a step after two, with the model alive."""
    for _ in range(2):
        step()
    return allocated(step, device).peak


def _high_water(model: nn.Module, step: Callable[[], Any]) -> int:
    import memray

    for parameter in model.parameters():
        parameter.grad = None
    gc.collect()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heap.bin"
        # It writes down as UTF-8 what a path of another encoding is not.
        with mock.patch.object(sys, "argv", ["bench"]), mock.patch.object(sys, "path", []):
            tracker = memray.Tracker(path, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS)
        with tracker:
            for _ in range(STEPS):
                step()
        found: int = memray.FileReader(path).metadata.peak_memory
        return found


def warm_peak_bytes(model: nn.Module, step: Callable[[], Any]) -> int:
    """`peak_bytes` of a step after two, with the model alive."""
    for _ in range(2):
        step()
    gc.collect()
    return peak_bytes(step)


def _resident(step: Callable[[], Any]) -> int:
    """The most resident bytes of this process that a thread sees while steps run."""
    process, done = psutil.Process(), threading.Event()
    seen = [process.memory_info().rss]

    def watch() -> None:
        while not done.wait(SAMPLE_SECONDS):
            seen.append(process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for _ in range(STEPS):
            step()
    finally:
        done.set()
        watcher.join()
    return max(seen)


def peak_bytes(step: Callable[[], Any]) -> int:
    """The most bytes of tensors that are alive at any moment of ``step()``.

    Tensors made earlier count when they are alive before or used within.
    """
    with _LiveBytes() as live:
        # By type, not isinstance: asking some objects for their class runs code of theirs.
        live.add(x for x in gc.get_objects() if issubclass(type(x), Tensor))
        live.peak = live.now
        step()
    return live.peak


class _LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages from their first sight to their end.

    `ezo.livebytes` does too, and takes them apart. This one is what the gate trusts: it shares no
    code with what it measures.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def add(self, tensors: Iterable[Any]) -> None:
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            if is_traceable_wrapper_subclass(tensor):  # has no memory but that of what it wraps
                names, _ = tensor.__tensor_flatten__()
                self.add(getattr(tensor, name) for name in names)
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            # A compiler keeps fake tensors of what it compiled; they lie on meta.
            if key in self._alive or storage.device.type == "meta":
                continue

            def gone(_: object, key: int = key, size: int = size) -> None:
                if self._alive.pop(key, None) is not None:
                    self.now -= size

            self._alive[key] = weakref.ref(storage, gone)
            self.now += size
        self.peak = max(self.peak, self.now)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.add(tree_iter((args, kwargs, result)))
        return result

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """A step that torch.compile makes faster stays compiled: a kernel is one operation."""
        return True
