"""Processes on this machine, by joblib."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from joblib import Parallel, delayed
from joblib.externals.loky.process_executor import TerminatedWorkerError

from bench.engines import TRIES, Lost

NAMES = NEEDS = ("joblib",)


def run(
    work: Callable[[Any], Any], tasks: Sequence[Any], jobs: int, where: str
) -> Iterator[tuple[int, Any]]:
    """One process where ``jobs`` is 1, this one. A lost worker takes its pool with it."""
    left, tries = dict(enumerate(tasks)), 0
    while left and tries < TRIES:
        parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
        try:
            for n, result in parallel([delayed(_numbered)(work, *of) for of in left.items()]):
                del left[n]
                yield n, result
        except TerminatedWorkerError:
            tries += 1
    for n in left:
        yield n, Lost(f"its worker was lost {TRIES} times, as one without memory is")


def _numbered(work: Callable[[Any], Any], n: int, task: Any) -> tuple[int, Any]:
    return n, work(task)
