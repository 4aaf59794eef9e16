"""``python -m bench smoke``: every benchmark and peer once, as small as can be, kept nowhere.

It tells whether they run, not what they measure: cells share two processes, for most of a small
cell is a process's start.
"""

import argparse
import importlib
import os
import time
from collections.abc import Iterator
from typing import Any

from bench import peers
from bench.grid import Grid
from bench.isolate import processes
from bench.workload import Workload

METHOD, BATCH_SIZE = "elastic-1", 16
JOBS = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Of the command line."""
    parser.add_argument(
        "--at-most", type=float, metavar="SECONDS", help="fail where it takes more, a core each"
    )


def cells(benchmarks: list[str]) -> Iterator[tuple[str, Any]]:
    """(benchmark, case): one of each benchmark, and each peer, model and precision once."""
    for name in benchmarks:
        benchmark = importlib.import_module(f"bench.{name}")
        try:
            yield name, Grid(["lenet5"], [METHOD], [BATCH_SIZE]).cells(benchmark)[0]
        except ValueError:  # it has methods of its own
            yield name, Grid(["lenet5"]).cells(benchmark)[0]
    yield "memory", Workload("lenet5", METHOD, BATCH_SIZE, precision="int8")
    yield from (("compare", Workload("lenet5", name, BATCH_SIZE)) for name in peers.names())
    yield "compare", Workload("pointnet", "full-zo", 2, points=64)
    yield "compare", Workload("mobilenet_v2", "full-zo", 2)


def run(given: argparse.Namespace, benchmarks: list[str]) -> int:
    """Measure all; print a line for each; 1 where one failed or all took too long, else 0.

    Too long is by the clock, and by the processes' own time too: a busy machine is no failure.
    """
    started = time.perf_counter()
    failures = 0
    with processes(JOBS) as pool:
        waiting = [(n, case, pool.submit(measure_short, n, case)) for n, case in cells(benchmarks)]
        for name, case, result in waiting:
            told, failed = result.result()
            failures += failed
            print(f"{name:<18} {case.name:<44} {told}", flush=True)
    seconds = time.perf_counter() - started
    spent = (os.times().children_user + os.times().children_system) / JOBS
    print(f"{len(waiting)} cells in {seconds:.0f} s, {spent:.0f} s of each core; {failures} failed")
    if given.at_most is not None and min(seconds, spent) > given.at_most:
        print(f"expected at most {given.at_most:g} s")
        return 1
    return 1 if failures else 0


def measure_short(name: str, case: Any) -> tuple[str, bool]:
    """What a short cell came to, and whether it failed."""
    benchmark = importlib.import_module(f"bench.{name}")
    started = time.perf_counter()
    try:
        rows = benchmark.measure(case, **getattr(benchmark, "SMOKE", {}))
    except Exception as error:
        return f"failed: {type(error).__name__}: {error}", True
    why = "; ".join(dict.fromkeys(row.note for row in rows if row.value is None))
    told = f"{len(rows)} rows, {time.perf_counter() - started:.1f} s"
    failed = not rows or any(row.metric == "failed" for row in rows) or "failed: " in why
    return f"{told}  {why}".rstrip(), failed
