"""Peak memory of a training step, four ways.

- ``analytic_bytes``: the step played on shapes alone (`ezo.plan.simulate`), by kind and by module.
- ``peak_tensor_bytes``: a real step's tensors, exact and repeatable, by kind. Buffers inside an
  operation don't show.
- ``heap_peak_bytes``: memray's high-water mark of the heap while the model is made and trained for
  three steps, buffers inside operations included, after the same has been done once.
- ``rss_peak_bytes``: the process's resident memory, sampled. Shown, never to be gated: it holds
  the libraries and what the allocator keeps.

On CUDA ``cuda_peak_bytes`` is torch's ``max_memory_allocated`` of a step.
"""

import gc
import tempfile
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch

from bench.workload import Workload
from ezo import catalogue, rows
from ezo.livebytes import KINDS, Peak, peak_bytes, step_peak
from ezo.plan import simulate
from ezo.rows import Row
from ezo.split import layers

__all__ = ["cases", "measure", "peak_bytes"]

METHODS = ("inference", "full-zo", "elastic-<k>", "full-bp", "full-bp-checkpoint")
UNIT = "B"
AGREEMENT = 0.02  # of the analytic with the exact figure
STEPS = 3
SAMPLE_SECONDS = 1e-3


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Workload]:
    """Every method on every model; ``elastic-<k>`` stands for every split point of a model."""
    return [
        Workload(model, name, batch_size)
        for model in models
        for method in methods or METHODS
        for name in _every_split(model, method)
    ]


def measure(case: Workload) -> list[Row]:
    """The four figures, each of a process that has done a step before."""
    analytic = simulate(case.prepare).peak
    model, step = case.prepare()
    step()
    resident = _resident(step)
    device = next(model.parameters()).device
    cuda = _cuda(step, device) if device.type == "cuda" else None
    del model, step
    gc.collect()
    exact = step_peak(case.prepare, everything=True)
    found = [
        _row(case, "peak_tensor_bytes", exact.peak_bytes, _difference(analytic, exact)),
        *_kinds(case, "peak_tensor_bytes", exact),
        _row(case, "analytic_bytes", analytic.peak_bytes, "by the step on shapes alone"),
        *_kinds(case, "analytic_bytes", analytic),
        *_modules(case, analytic),
        _heap(case, exact),
        _row(case, "rss_peak_bytes", resident, "sampled; libraries included; not to be gated"),
    ]
    if cuda is not None:
        found.append(_row(case, "cuda_peak_bytes", cuda, "torch.cuda.max_memory_allocated"))
    return found


def _every_split(model: str, method: str) -> list[str]:
    if "<k>" not in method:
        return [method]
    module = catalogue.find("model", model)
    with torch.device("meta"):
        count = len(layers(module.build(model)))
    return [method.replace("<k>", str(k)) for k in range(1, count)]


def _difference(analytic: Peak, exact: Peak) -> str:
    """Which kind explains the analytic figure's error, where that is more than `AGREEMENT`."""
    error = analytic.peak_bytes / exact.peak_bytes - 1
    if abs(error) <= AGREEMENT:
        return ""
    kind = max(KINDS, key=lambda kind: abs(analytic.kinds[kind] - exact.kinds[kind]))
    return (
        f"the analytic figure is {error:+.1%} off, mostly by {kind}: "
        f"{analytic.kinds[kind]:,} B in place of {exact.kinds[kind]:,} B"
    )


def _kinds(case: Workload, metric: str, peak: Peak) -> list[Row]:
    """A row for each kind of memory at the peak."""
    return [_row(case, f"{metric}/{kind}", size) for kind, size in peak.kinds.items()]


def _modules(case: Workload, peak: Peak) -> list[Row]:
    """A row for each module and kind at the peak."""
    return [
        _row(case, f"analytic_bytes/{kind}", size, f"of module {module or '(none)'}", module=module)
        for (module, kind), size in peak.modules.items()
    ]


def _heap(case: Workload, exact: Peak) -> Row:
    """memray's high-water mark of making the model and training it for some steps."""
    try:
        import memray
    except ModuleNotFoundError as error:
        return _row(case, "heap_peak_bytes", None, f"not installed: {error.name}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "heap.bin"
        with memray.Tracker(path, file_format=memray.FileFormat.AGGREGATED_ALLOCATIONS):
            _, step = case.prepare()
            for _ in range(STEPS):
                step()
        peak = memray.FileReader(path).metadata.peak_memory
    note = f"{peak - exact.peak_bytes:+,} B beside exact tensor bytes: buffers inside operations, "
    return _row(case, "heap_peak_bytes", peak, f"{note}and Python's objects")


def _resident(step: Any) -> int:
    """The most resident bytes of this process, as a thread sees them while steps run."""
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


def _cuda(step: Any, device: torch.device) -> int:
    """The most bytes that torch's CUDA allocator gave out during a step."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device)


def _row(
    case: Workload, metric: str, value: float | None, note: str = "", **config: Any
) -> Row:
    return Row(
        case=case.name,
        metric=metric,
        value=value,
        unit=UNIT,
        note=note,
        model=case.model,
        data="random",
        method=case.method,
        config={"batch_size": case.batch_size, **config},
        threads=torch.get_num_threads(),
        **rows.provenance(),
    )
