"""What a process is told once of backends: that there are no kernels, or none for some weights."""

import warnings
from pathlib import Path

from torch import Tensor

told: set[str] = set()


def missing() -> None:
    """The reference has to do."""
    _once(
        "missing",
        f"no compiled kernels in {Path(__file__).parents[1]}; the torch reference gives the same "
        "bits, some 30 times slower. To get the kernels, install ezo where there is a C++17 "
        "compiler; in a clone, whose own files Python finds first, with pip install -e .",
    )


def left(tensors: list[Tensor], compiled: bool, backends: int) -> None:
    """Why weights are left to the reference, one of so many backends."""
    others = [tensor for tensor in tensors if compiled or not tensor.is_cpu]
    if len(others) < len(tensors) or backends == 1:
        missing()
    else:
        slow(others)


def slow(tensors: list[Tensor]) -> None:
    """Weights that nothing but the reference takes."""
    kinds = sorted({f"{tensor.dtype} on {tensor.device.type}" for tensor in tensors})
    _once(
        "slow",
        f"no kernels for {len(tensors)} weights of {', '.join(kinds)}; the torch reference "
        "gives the same bits, some 50 times slower. Keep them in float32 on the CPU, or give "
        "scratch_bytes of some MB",
    )


def _once(key: str, message: str) -> None:
    if key not in told:
        told.add(key)
        warnings.warn(message, stacklevel=6)
