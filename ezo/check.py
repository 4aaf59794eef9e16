"""Checks of arguments, for both optimisers: what was expected, what came."""

import math
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor

MOST_JOBS = 1024
LARGEST = 2**63 - 1  # integer that a row or a run may hold


def expect(name: str, value: object, holds: bool, expected: str) -> None:
    """Raises:
    ValueError: it does not hold.
    """
    if not holds:
        raise ValueError(f"expected {name} to be {expected}, got {value!r}")


def one_of(name: str, value: object, known: Sequence[str]) -> None:
    """A string of those known."""
    expect(name, value, value in known, f"one of {', '.join(known)}")


def integer(name: str, value: object, low: int, high: int | None = None) -> None:
    """An integer of ``low`` or more, and at most ``high``."""
    holds = whole(value) and low <= value and (high is None or value <= high)  # type: ignore[operator]
    bounds = f"of {low} or more" if high is None else f"from {low} to {high}"
    expect(name, value, holds, f"an integer {bounds}")


def seed(value: object) -> None:
    """A seed of the noise stream."""
    holds = whole(value) and 0 <= value < 1 << 64  # type: ignore[operator]
    expect("seed", value, holds, "an integer in [0, 2^64)")


def whole(value: object) -> bool:
    """Whether it is an integer, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def finite(value: object) -> bool:
    """Whether it is one finite number, or a tensor of one, as a learning rate may be."""
    if isinstance(value, bool) or not isinstance(value, (Real, Tensor)):
        return False
    try:
        return (not isinstance(value, Tensor) or value.numel() == 1) and math.isfinite(value)
    except OverflowError:  # an integer that no float holds
        return False


def jobs(value: int) -> None:
    """Processes side by side."""
    if not 1 <= value <= MOST_JOBS:
        raise ValueError(
            f"expected --jobs from 1 to {MOST_JOBS}, got {value}; give as many as there are cores"
        )


def device(name: str) -> None:
    """A device that torch can compute on here."""
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"expected a device that works here, got '{name}': {reason}; give --device cpu"
        ) from error
