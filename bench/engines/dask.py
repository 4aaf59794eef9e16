"""Workers of a Dask cluster, a local one or any that runs."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.engines import TRIES, Lost

NAMES, NEEDS = ("dask",), ("dask", "distributed")


def run(
    work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, where: str
) -> Iterator[tuple[int, Any]]:
    """On the cluster whose scheduler has the address ``where``; else on ``jobs`` processes here.

    Dask gives a lost worker's tasks to others.
    """
    import dask
    from distributed import Client, LocalCluster, as_completed

    settings = {
        "distributed.scheduler.allowed-failures": TRIES - 1,
        "distributed.worker.daemon": False,  # work may start processes of its own
    }
    with contextlib.ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        if where:
            client = stack.enter_context(Client(where))
        else:
            how: dict[str, Any] = {"threads_per_worker": 1, "dashboard_address": ":0"}
            cluster = stack.enter_context(LocalCluster(n_workers=jobs, **how))
            client = stack.enter_context(Client(cluster))
        futures = {client.submit(work, task, pure=False): n for n, task in enumerate(tasks)}
        for future in as_completed(futures):
            if (error := future.exception()) is None:
                yield futures[future], future.result()
            else:
                yield futures[future], Lost(f"{type(error).__name__}: {error}")
