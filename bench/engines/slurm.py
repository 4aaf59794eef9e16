"""Jobs of SLURM, by submitit; or the same as local processes."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.engines import TRIES, Lost

NAMES, NEEDS = ("slurm",), ("submitit",)
COMMANDS = "sbatch", "srun", "squeue", "scancel"
NO_LIMIT = 10 * 365 * 24 * 60  # minutes, for submitit; the cluster says what a job may take
POLL_SECONDS = 0.2
LOOK_SECONDS = 10.0  # between two questions to the cluster
LATE_SECONDS = 15.0  # that a result may show after its job's end: folders of a network are slow
REFUSED_SECONDS = 1800.0  # of nothing but refusals, after which a sweep stops
GONE = "gone from the queue"
OVER = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "REVOKED",
    "TIMEOUT",
    GONE,
}


def check(where: str) -> None:
    """Before any work: whether the cluster would take a job in the partition ``where``.

    Raises:
        ValueError: there is no cluster, or it refuses.
    """
    if where == "local":
        return
    for command in COMMANDS:
        if shutil.which(command) is None:
            raise ValueError(
                f"expected the commands of SLURM, got no {command} on PATH; start the sweep on a "
                "machine of the cluster, or give --engine slurm:local"
            )
    partition = [f"--partition={where}"] if where else []
    with _own_variables():
        asked = ["sbatch", "--test-only", *partition, "--wrap=true"]
        said = subprocess.run(asked, capture_output=True, text=True)
    if said.returncode:
        raise ValueError(
            f"expected a cluster that takes a job, got from `{' '.join(asked)}`: "
            f"{_one_line(said.stderr)}; name a partition by --engine slurm:PARTITION, and what "
            "else the cluster asks for by SBATCH_ACCOUNT, SBATCH_QOS and such"
        )


def run(
    work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, where: str
) -> Iterator[tuple[int, Any]]:
    """``jobs`` jobs at a time, in the partition ``where``, or its usual one; ``local``: here.

    A job that ends without a result, one that was cancelled for example, is submitted again. Jobs
    that are left when the driver stops are cancelled.
    """
    # Jobs must reach the folder. One that is being cancelled may still write there.
    made = tempfile.TemporaryDirectory(dir=".", prefix=".submitit-", ignore_cleanup_errors=True)
    with made as folder:
        side = _Local(folder) if where == "local" else _Cluster(folder, where)
        waiting = [(n, TRIES) for n in reversed(range(len(tasks)))]
        running: dict[Any, tuple[int, int]] = {}
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    job = side.submitted(work, tasks[waiting[-1][0]], bool(running))
                    if job is None:
                        break
                    n, tries = waiting.pop()
                    running[job] = n, tries - 1
                done = [job for job in running if side.done(job)]
                for job in done:
                    n, tries = running.pop(job)
                    if not (note := side.lost(job)):
                        yield n, job.result()
                    elif tries:
                        waiting.append((n, tries))
                    else:
                        yield n, Lost(note)
                if not done:
                    time.sleep(POLL_SECONDS)
        finally:
            if running:
                side.cancel(list(running))


class _Local:
    """Jobs as processes here."""

    def __init__(self, folder: str) -> None:
        import submitit

        self._executor = submitit.AutoExecutor(folder, cluster="local")
        self._executor.update_parameters(timeout_min=NO_LIMIT)

    def submitted(self, work: Callable[[Any], Any], task: Any, others: bool) -> Any:
        return self._executor.submit(work, task)

    def done(self, job: Any) -> bool:
        return bool(job.done())

    def lost(self, job: Any) -> str:
        """Why there is no result; empty where there is one."""
        error = job.exception()
        return "" if error is None else f"{type(error).__name__}: {error}"

    def cancel(self, jobs: list[Any]) -> None:
        for job in jobs:
            job.cancel(check=False)


class _Cluster:
    """Jobs of a cluster.

    squeue says which jobs are over. submitit asks sacct, which knows of none where a cluster keeps
    no accounts, and there it would wait for a lost job for ever.
    """

    def __init__(self, folder: str, partition: str) -> None:
        import submitit

        class Executor(submitit.SlurmExecutor):
            def _make_submission_file_text(self, command: str, uid: str) -> str:
                # Without a limit of ours: a job above its partition's would wait for ever.
                text = str(super()._make_submission_file_text(command, uid))
                return "".join(
                    line for line in text.splitlines(True) if not line.startswith("#SBATCH --time=")
                )

        self._refusals = (submitit.core.utils.FailedJobError, OSError)
        self._executor = Executor(folder)
        self._executor.update_parameters(job_name="ezo", time=NO_LIMIT, cpus_per_task=1)
        if partition:
            self._executor.update_parameters(partition=partition)
        self._refused_since: float | None = None
        self._submit_at = self._look_at = 0.0
        self._states: dict[str, str] = {}
        self._over_at: dict[Any, float] = {}

    def submitted(self, work: Callable[[Any], Any], task: Any, others: bool) -> Any:
        """The job; None where the cluster refuses now: it restarts, or allows no more jobs."""
        now = time.monotonic()
        if now < self._submit_at:
            return None
        try:
            with _own_variables():
                job = self._executor.submit(work, task)
        except self._refusals as error:
            self._submit_at = time.monotonic() + LOOK_SECONDS
            if others or self._refused_since is None:
                self._refused_since = now
            if now - self._refused_since > REFUSED_SECONDS:
                raise ValueError(
                    f"expected a cluster that takes jobs, got, for {REFUSED_SECONDS / 60:.0f} "
                    f"minutes: {_one_line(str(error))}; the same command goes on from here"
                ) from error
            return None
        self._refused_since = None
        self._states[job.job_id] = "PENDING"
        return job

    def done(self, job: Any) -> bool:
        if job.paths.result_pickle.exists():
            return True
        self._look(job.paths.folder)
        if self._states[job.job_id] not in OVER:
            self._over_at.pop(job, None)
            return False
        return time.monotonic() - self._over_at.setdefault(job, time.monotonic()) > LATE_SECONDS

    def _look(self, folder: Path) -> None:
        if time.monotonic() < self._look_at:
            return
        with contextlib.suppress(OSError):
            folder.chmod(folder.stat().st_mode)  # a folder of a network is read anew
        asked = ["squeue", "--me", "--noheader", "--states=all", "--format=%i %T"]
        said = subprocess.run(asked, capture_output=True, text=True)
        self._look_at = time.monotonic() + LOOK_SECONDS
        if said.returncode == 0:  # else it restarts, and nothing is known
            told = dict(line.split() for line in said.stdout.splitlines())
            self._states = {job: told.get(job, GONE) for job in self._states}

    def lost(self, job: Any) -> str:
        """Why there is no result; empty where there is one."""
        self._over_at.pop(job, None)
        state = self._states.pop(job.job_id)
        if job.paths.result_pickle.exists():
            error = job.exception()
            return "" if error is None else f"{type(error).__name__}: {error}"
        wrote = _one_line(job.stderr() or job.stdout() or "")
        if not wrote:
            wrote = (
                f"nothing; does every node reach {job.paths.folder}? Start the sweep in a folder "
                "that they share"
            )
        return f"its jobs ended without a result {TRIES} times, the last {state}; it wrote: {wrote}"

    def cancel(self, jobs: list[Any]) -> None:
        subprocess.run(["scancel", *(job.job_id for job in jobs)], capture_output=True)


@contextlib.contextmanager
def _own_variables() -> Iterator[None]:
    """A driver that is a job itself: what SLURM set for it is not for its jobs."""
    kept = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
    inside = "SLURM_JOB_ID" in os.environ
    names = [name for name in os.environ if name.startswith(("SLURM_", "SLURMD_", "SRUN_"))]
    own = {name: os.environ.pop(name) for name in names if inside and name not in kept}
    try:
        yield
    finally:
        os.environ.update(own)


def _one_line(text: str) -> str:
    """The last words of a log."""
    return "; ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())[-300:]
