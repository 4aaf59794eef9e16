"""Jobs of SLURM, by submitit; or the same as local processes."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from bench.engines import TRIES, Lost

NAMES, NEEDS = ("slurm",), ("submitit",)
MINUTES = 24 * 60  # that a job may take
POLL_SECONDS = 0.2


def run(
    work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, where: str
) -> Iterator[tuple[int, Any]]:
    """``jobs`` jobs at a time, in the partition ``where``, or its usual one; ``local``: here.

    A job that ends without a result, one that was preempted for example, is submitted again.
    """
    import submitit

    with tempfile.TemporaryDirectory(dir=".", prefix=".submitit-") as folder:  # jobs must reach it
        local = where == "local"
        executor = submitit.AutoExecutor(folder, cluster="local" if local else "slurm")
        executor.update_parameters(timeout_min=MINUTES, cpus_per_task=1)
        if where and not local:
            executor.update_parameters(slurm_partition=where)
        waiting = [(n, TRIES) for n in reversed(range(len(tasks)))]
        running: dict[Any, tuple[int, int]] = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                n, tries = waiting.pop()
                running[executor.submit(work, tasks[n])] = n, tries - 1
            done = [job for job in running if job.done()]
            for job in done:
                n, tries = running.pop(job)
                if (error := job.exception()) is None:
                    yield n, job.result()
                elif tries:
                    waiting.append((n, tries))
                else:
                    yield n, Lost(f"{type(error).__name__}: {error}")
            if not done:
                time.sleep(POLL_SECONDS)
