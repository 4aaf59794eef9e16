"""What torch's CUDA allocator gives out for a step, and what a plan's bytes leave out of it.

A plan, as exact tensor bytes, counts what tensors need. The allocator's peak holds more, and
torch's own counters tell it apart: blocks are multiples of 512 B, and a large one may be 1 MiB too
long; cuBLAS has a workspace for each stream, which stays; and an operator, such as cuDNN's
convolutions, may take scratch while it runs.
"""

import contextlib
import gc
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from bench.workload import Workload
from ezo import kernels
from ezo.livebytes import Peak
from ezo.plan import simulate

AGREEMENT = 0.02  # of a plan with the allocator's peak


def is_cuda(device: str) -> bool:
    """Whether a device's name is a CUDA one's."""
    return torch.device(device).type == "cuda"


def planned(case: Workload) -> Peak:
    """What a plan says of a workload's step, on any device: it is played on the CPU's shapes."""
    # On a GPU integers are the reference's, whose accumulators stand whole.
    plain = is_cuda(case.device) and case.precision.startswith("int")
    serving = kernels.using("reference") if plain else contextlib.nullcontext()
    # torch can't move a module of fake tensors; there is no need to.
    with serving, mock.patch.object(nn.Module, "to", lambda module, *_: module):
        return simulate(replace(case, device="cpu").prepare).peak


@dataclass(frozen=True)
class Allocated:
    """The allocator's bytes of a step.

    Attributes:
        peak: ``max_memory_allocated``.
        requested: the most that was asked for, before the allocator rounds up.
        workspaces: of these, what stands between steps and is no tensor's.
    """

    peak: int
    requested: int
    workspaces: int


def allocated(step: Callable[[], Any], device: str) -> Allocated:
    """Of a step that was warmed up."""
    gc.collect()
    torch.cuda.synchronize(device)
    now = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
    workspaces = max(0, now - standing_bytes(device))
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    requested = torch.cuda.memory_stats(device)["requested_bytes.all.peak"]
    return Allocated(torch.cuda.max_memory_allocated(device), requested, workspaces)


def standing_bytes(device: str) -> int:
    """Of the storages of all tensors on a device that Python can reach, gradients too."""
    where = torch.device(device)
    found: dict[int, int] = {}
    # By type, not isinstance: asking some objects for their class runs code of theirs.
    reached = [x for x in gc.get_objects() if issubclass(type(x), Tensor)]
    reached += [x.grad for x in reached if x.is_leaf and x.grad is not None]
    for tensor in reached:
        if is_traceable_wrapper_subclass(tensor):  # what it wraps is reached by itself
            continue
        if tensor.device.type == where.type and where.index in (None, tensor.device.index):
            storage = tensor.untyped_storage()
            found[storage._cdata] = storage.nbytes()
    return sum(found.values())


def explained(plan: int, found: Allocated) -> tuple[float, str]:
    """A plan's bytes over the allocator's peak, and what the difference is made of.

    >>> explained(1_000_000, Allocated(peak=1_010_000, requested=1_001_000, workspaces=0))[1]
    '1,000,000 B of 1,010,000 B'
    >>> explained(500_000, Allocated(peak=1_010_000, requested=1_001_000, workspaces=400_000))[1]
    '500,000 B of 1,010,000 B: 9,000 B rounded up, 400,000 B workspaces, +101,000 B in operators'
    """
    ratio, note = plan / found.peak, f"{plan:,} B of {found.peak:,} B"
    if abs(ratio - 1) > AGREEMENT:
        inside = found.requested - found.workspaces - plan
        note += (
            f": {found.peak - found.requested:,} B rounded up, {found.workspaces:,} B workspaces, "
            f"{inside:+,} B in operators"
        )
    return ratio, note
