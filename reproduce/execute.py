"""Run many training runs side by side, each resumable, each in a folder of its own."""

import functools
import os
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench import engines
from bench.isolate import keep_memory
from ezo.lock import alone_in
from ezo.rows import Row, provenance
from ezo.train import Run, train
from reproduce import stamp
from reproduce.folder import run_rows


def execute(
    runs: Sequence[Run],
    out: Path,
    *,
    root: Path | None = None,
    jobs: int = 1,
    device: str = "cpu",
    checkpoint_steps: int = 1000,
    engine: str = engines.USUAL,
) -> Iterator[list[Row]]:
    """Train every run; yield each one's rows when it ends, in the order in which they end.

    A finished run is read from its folder, a stopped one goes on where it was. A run that fails is
    one row, ``failed``, whose note is the error; the others go on. A run that starts from another
    one's weights waits for it. A run that another process trains, for example one that outlived a
    driver that was killed, is waited for, too. One whose worker was lost is tried again, from its
    checkpoint where the next worker reaches ``out``.

    Args:
        runs: what to train.
        out: each run has the folder ``out/case``.
        root: where data sets lie (`ezo.train.train`).
        jobs: processes side by side, of one CPU thread each.
        device: where to train.
        checkpoint_steps: steps between a run's checkpoints.
        engine: what runs them (`bench.engines`).
    """
    how = {"root": root, "device": device, "checkpoint_steps": checkpoint_steps}
    work = functools.partial(_one, out=out.absolute(), driver=os.getpid(), how=how)
    for wave in _waves(runs):
        for n, found in engines.run(engine, work, wave, jobs):
            lost = isinstance(found, engines.Lost)
            yield [_failed(wave[n], found.note, device)] if lost else found


def _waves(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """The runs in groups, each of which starts from none but runs of groups before it."""
    left = {run.case: run for run in runs}
    while left:
        wave = [run for run in left.values() if run.start not in left]
        assert wave, "a run's name covers its start, so that no two can wait for each other"
        yield wave
        left = {case: run for case, run in left.items() if run not in wave}


def _one(run: Run, *, out: Path, driver: int, how: dict[str, Any]) -> list[Row]:
    """A run's rows, also in its folder. Where its driver was killed meanwhile, the process ends."""
    parent = os.getppid()
    found = _train(run, out, how)
    if os.getpid() != driver and os.getppid() != parent:
        os._exit(1)  # nobody reads what it would return; it would wait for that, and for ever
    return found


def _train(run: Run, out: Path, how: dict[str, Any]) -> list[Row]:
    torch.set_num_threads(1)
    keep_memory()
    folder = out / run.case
    try:
        with alone_in(folder, wait=True):
            begun = run_rows(folder)
            if not stamp.ended(begun):
                stamp.note(folder, begun=bool(begun))
        return list(train(run, out=folder, wait=True, **how))
    except Exception as error:
        where = traceback.format_exc(limit=-1).strip().splitlines()
        note = f"{type(error).__name__}: {error} ({where[1].strip()})"
        return [_failed(run, note, how["device"])]


def _failed(run: Run, note: str, device: str) -> Row:
    own = ("model", "data", "method", "precision", "seed")
    named = {name: getattr(run, name) for name in own}
    what: dict[str, Any] = {"note": note, "config": run.settled().config, "device": device}
    return Row(run.case, "failed", None, "", **named, **what, **provenance())
