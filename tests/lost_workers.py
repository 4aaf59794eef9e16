"""A sweep that loses a worker midway: ``python tests/lost_workers.py --runs 40 --log FILE``.

Short runs go through an engine of two workers, of which one is killed when a quarter of the runs
has ended. The sweep must end complete, with the rows of one that nobody disturbed.
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent))  # of this checkout

from ezo import train
from ezo.rows import Row
from ezo.train import Run
from reproduce.execute import execute

Told = list[tuple[str, int | None, float | None, str]]


def runs_of(n: int, epochs: int = 2) -> list[Run]:
    """Short runs, each with a seed of its own; every second one by integers."""
    made = {"epochs": epochs, "train_examples": 320}
    return [
        Run("lenet5", "digits", "full-zo", ("fp32", "int8")[i % 2], seed=i, **made)  # type: ignore[arg-type]
        for i in range(n)
    ]


def told(found: list[Row]) -> Told:
    """A run's numbers but for its seconds."""
    return [(r.metric, r.step, r.value, r.note) for r in found if r.unit != "s"]


@contextlib.contextmanager
def engine_of(name: str) -> Iterator[tuple[str, Callable[[], list[int]]]]:
    """An engine of two workers, and what finds the processes of those that work now."""
    if name != "dask":
        yield name, _jobs
        return
    import dask
    from distributed import Client, LocalCluster

    dask.config.set({"distributed.scheduler.allowed-failures": 3})
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**how) as cluster, Client(cluster) as client:
        yield (
            f"dask:{cluster.scheduler_address}",
            lambda: list(client.run(os.getpid).values()),
        )


def _jobs() -> list[int]:
    """Of joblib; or of submitit, whose folder is here, and which on a cluster are no children."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = " ".join(process.cmdline())
            job = "submitit.core._submit" in words and f"{Path.cwd()}/.submitit-" in words
            job = job and process.name().startswith("python")  # not srun or bash
            if job or ("LokyProcess" in words and psutil.Process() in process.parents()):
                found.append(process.pid)
    return found


def sweep(name: str, runs: list[Run], out: Path, kill_after: int) -> dict[str, Told]:
    """The rows of all runs, one worker of the engine killed when so many have ended."""
    found: dict[str, Told] = {}
    with engine_of(name) as (engine, workers):
        for part in execute(runs, out, jobs=2, checkpoint_steps=2, engine=engine):
            found[part[0].case] = told(part)
            if len(found) == kill_after:
                of = (out, workers, set(found))
                threading.Thread(target=_kill_busy, args=of, daemon=True).start()
    return found


def _kill_busy(out: Path, workers: Callable[[], list[int]], ended: set[str]) -> None:
    """One that has written a checkpoint of a run that has not ended."""
    for _ in range(30_000):  # of a hundredth of a second: jobs may start late
        begun = {path.parent.name for path in out.glob("*/checkpoint.safetensors")} - ended
        if begun and (pids := workers()):
            os.kill(pids[-1], signal.SIGKILL)
            return
        time.sleep(0.01)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", default="dask", help="dask, joblib, slurm or slurm:local")
    parser.add_argument("--runs", type=int, default=40, help="how many")
    parser.add_argument("--epochs", type=int, default=2, help="of a run")
    parser.add_argument("--log", type=Path, help="file for what is printed")
    given = parser.parse_args()
    runs = runs_of(given.runs, given.epochs)
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        found = sweep(given.engine, runs, Path(folder), max(given.runs // 4, 1))
        seconds = time.perf_counter() - started
    alone = {run.case: told(list(train.train(run))) for run in runs}
    same = sum(found.get(case) == rows for case, rows in alone.items())
    lines = [
        f"engine {given.engine}, 2 workers, one killed after {max(given.runs // 4, 1)} runs",
        f"{len(found)} of {given.runs} runs ended, in {seconds:.0f} s",
        f"{same} of {given.runs} have the rows of a run that nobody disturbed",
    ]
    print("\n".join(lines))
    if given.log:
        given.log.parent.mkdir(parents=True, exist_ok=True)
        given.log.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return int(same != given.runs)


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    sys.exit(main())
