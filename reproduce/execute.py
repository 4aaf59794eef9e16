"""Run many training runs side by side, each resumable, each in a folder of its own."""

import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from joblib import Parallel, delayed

from ezo.rows import Row, provenance
from ezo.train import Run, train


def execute(
    runs: Sequence[Run], out: Path, *, root: Path | None = None, jobs: int = 1, device: str = "cpu"
) -> Iterator[list[Row]]:
    """Train every run; yield each one's rows when it ends, in the order in which they end.

    A finished run is read from its folder, a stopped one goes on where it was. A run that fails is
    one row, ``failed``, whose note is the error; the others go on.

    Args:
        runs: what to train.
        out: each run has the folder ``out/case``.
        root: where data sets lie (`ezo.train.train`).
        jobs: processes side by side, of one CPU thread each.
        device: where to train.
    """
    parallel = Parallel(n_jobs=jobs, return_as="generator_unordered")
    yield from parallel(delayed(_one)(run, out, root, device) for run in runs)


def _one(run: Run, out: Path, root: Path | None, device: str) -> list[Row]:
    torch.set_num_threads(1)
    try:
        return list(train(run, root=root, out=out / run.case, device=device))
    except Exception as error:
        where = traceback.format_exc(limit=-1).strip().splitlines()
        return [
            Row(
                case=run.case,
                metric="failed",
                value=None,
                unit="",
                note=f"{type(error).__name__}: {error} ({where[1].strip()})",
                model=run.model,
                data=run.data,
                method=run.method,
                precision=run.precision,
                seed=run.seed,
                config=run.config(),
                device=device,
                **provenance(),
            )
        ]
