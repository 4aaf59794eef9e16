"""Run a measurement in a process of its own, so that none sees another's memory or threads."""

import contextlib
import ctypes
import faulthandler
import importlib
import math
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.context import BaseContext
from typing import Any

from bench.workload import row_of
from ezo.rows import Row

# For glibc's malloc, as a process starts: the memory of large tensors stays with the process. By
# default it goes back to the system and comes anew, which takes half the time of a PointNet step;
# and whether it does depends on chance, so that processes are of two speeds.
KEPT_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
_M_MMAP_MAX, _M_TRIM_THRESHOLD = -4, -1  # of malloc.h


def keep_memory() -> None:
    """The same for a process that has started; nothing where malloc is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


def spawning() -> BaseContext:
    """The way to start new processes, also within a worker of loky, whose way no child knows."""
    if multiprocessing.get_start_method(allow_none=True) not in (None, "fork", "spawn"):
        multiprocessing.set_start_method("spawn", force=True)
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def processes(number: int) -> Iterator[ProcessPoolExecutor]:
    """New processes, which end at once where this one is stopped."""
    with ProcessPoolExecutor(number, mp_context=spawning()) as pool:
        try:
            yield pool
        except KeyboardInterrupt:
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def measure_alone(benchmark: str, case: Any) -> list[Row]:
    """``bench.<benchmark>.measure(case)`` in a new process."""
    with processes(1) as alone:
        return alone.submit(_measure, benchmark, case).result()


def measure_or_say_why(benchmark: str, case: Any) -> list[Row]:
    """As `measure_alone`, with how long it took; a failure is one row, ``failed``."""
    started = time.perf_counter()
    try:
        measured = measure_alone(benchmark, case)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
        if isinstance(error, BrokenProcessPool):
            why = "the process died, as one without memory does"
            if time.perf_counter() - started >= limit_seconds(benchmark):
                why = f"stopped after {limit_seconds(benchmark):g} s"
        measured = [row_of(case, "failed", None, "", why)]
    seconds = time.perf_counter() - started
    return [*measured, row_of(case, "cell_seconds", seconds, "s", "of the whole cell")]


def told(error: Exception) -> str:
    """An error's kind, and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0]


def limit_seconds(benchmark: str) -> float:
    """After how long a cell's process ends itself."""
    module = importlib.import_module(f"bench.{benchmark}")
    return float(getattr(module, "LIMIT_SECONDS", math.inf))


def _measure(benchmark: str, case: Any) -> list[Row]:
    if limit_seconds(benchmark) < math.inf:
        faulthandler.dump_traceback_later(limit_seconds(benchmark), exit=True)
    measured: list[Row] = importlib.import_module(f"bench.{benchmark}").measure(case)
    faulthandler.cancel_dump_traceback_later()
    return measured
