"""Run a measurement in a process of its own, so that none sees another's memory or threads."""

import importlib
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from ezo.rows import Row


def measure_alone(benchmark: str, case: Any) -> list[Row]:
    """``bench.<benchmark>.measure(case)`` in a new process."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as alone:
        return alone.submit(_measure, benchmark, case).result()


def _measure(benchmark: str, case: Any) -> list[Row]:
    measured: list[Row] = importlib.import_module(f"bench.{benchmark}").measure(case)
    return measured
