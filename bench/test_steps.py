"""``pytest bench --benchmark-only``: a step of each method on each model, through pytest-benchmark.

A step's losses are checked before it is timed. Compare within one run alone.
"""

import dataclasses
from typing import Any

import pytest

from bench.timing import check
from bench.workload import Workload
from ezo.rows import provenance

METHODS = ("inference", "full-zo", "elastic-1", "full-bp")
WORKLOADS = [
    Workload(model, method, batch_size)
    for model, batch_size in (("lenet5", 32), ("pointnet", 2))
    for method in METHODS
]


@pytest.mark.parametrize("workload", WORKLOADS, ids=[w.name for w in WORKLOADS])
def test_step(benchmark: Any, workload: Workload) -> None:
    benchmark.group = f"{workload.model} {workload.method}"
    benchmark.extra_info.update(dataclasses.asdict(workload), **provenance())
    _, step = workload.prepare()
    check(workload.name, step)

    def synchronised() -> None:
        step()
        workload.synchronise()

    benchmark(synchronised)
