"""Kill what writes files, at any moment, and see that nothing finished is lost and no bit differs.

``python tests/kills.py --kills 200 --log reports/kills/kills-200.log`` kills a loop of checkpoints,
one of rows, a training run, a reproduction, cells of a benchmark, a merge, a redraw and a gate.
Each goes on, is killed again, and ends at last. `tests/test_kills.py` does it with few kills. A
kill comes

    after a time      SIGKILL from outside, to the process and those that it started
    at a change       SIGKILL before the n-th opening, renaming or removing of a file
    at a byte         the kernel's SIGXFSZ, where a file would outgrow n bytes: a torn write
"""

import argparse
import contextlib
import functools
import hashlib
import json
import mmap
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bench import __main__ as bench_main
from bench import gate, grid, isolate
from bench.gate.judging import Finding
from ezo import checkpoint, cli, rows
from ezo.rows import Row
from ezo.train import Run
from reproduce import __main__ as reproduce_main
from reproduce import presets, stamp
from reproduce.experiments import Experiment
from reproduce.folder import Request
from reproduce.presets import Preset

SAVES = 30  # of a checkpoint, and of a file of rows
KILLS_OF_ONE = 4  # before it may end
CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.rmdir")
FIRST = Run("lenet5", "digits", "elastic-1", epochs=2, train_examples=320)
SECOND = replace(FIRST, method="full-zo", start="")


@dataclass(frozen=True)
class Scene:
    """What is killed.

    Attributes:
        share: of the kills, in parts of 200.
        prepare: makes what it starts from, in a new folder.
        work: does it, or goes on; says in ``done`` how far it got for good.
        kept: what a kill must not have lost; raises where it did.
        bits: what must be the same in the end.
    """

    share: int
    prepare: Callable[[Path], None]
    work: Callable[[Path, "Done"], None]
    kept: Callable[[Path, int], None]
    bits: Callable[[Path], Any]


class Done:
    """A number that outlives the process that sets it."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    @property
    def value(self) -> int:
        return int.from_bytes(self._memory[:8], "little")

    @value.setter
    def value(self, value: int) -> None:
        self._memory[:8] = value.to_bytes(8, "little")


# A checkpoint; a file of rows that grows


def state(step: int) -> dict[str, Any]:
    return {"step": step, "x": torch.full((2000,), float(step)), "more": list(range(step))}


def save_checkpoints(folder: Path, done: Done) -> None:
    for step in range(done.value + 1, SAVES + 1):
        checkpoint.save(folder / "c", state(step))
        done.value = step


def checkpoint_kept(folder: Path, done: int) -> None:
    if done or (folder / "c").exists():
        found = checkpoint.load(folder / "c")
        assert found["step"] in (done, done + 1), f"step {found['step']} is there, {done} was saved"
        expected = state(found["step"])
        assert torch.equal(found["x"], expected["x"]) and found["more"] == expected["more"]


def save_rows(folder: Path, done: Done) -> None:
    for n in range(done.value + 1, SAVES + 1):
        rows.write(folder / "rows.jsonl", (Row("a", "m", k, "1", note="n" * 99) for k in range(n)))
        done.value = n


def rows_kept(folder: Path, done: int) -> None:
    if done or (folder / "rows.jsonl").exists():
        found = rows.read(folder / "rows.jsonl")
        assert len(found) in (done, done + 1) and [r.value for r in found] == [*range(len(found))]


# A training run; a reproduction


def train(folder: Path, done: Done) -> None:
    words = ["train", "--model", FIRST.model, "--data", FIRST.data, "--method", FIRST.method]
    words += ["--epochs", str(FIRST.epochs), "--train-examples", str(FIRST.train_examples)]
    status = cli.main([*words, "--checkpoint-steps", "3", "--out", str(folder / "runs" / "a")])
    assert status == 0, f"ezo train ended with {status}"
    done.value = 1


def run_kept(folder: Path, done: int) -> None:
    """What a checkpoint knows of is there, and a run that ended has its end."""
    for path in folder.glob("runs/*/checkpoint.safetensors"):
        found = checkpoint.load(path)
        text = path.with_name("rows.jsonl").read_bytes()[: found["rows_bytes"]]
        assert len(text) == found["rows_bytes"] and text.endswith(b"\n")
        lines = [rows.parse(path, n, line) for n, line in enumerate(text.splitlines(), start=1)]
        assert (lines[-1].metric == "finished") == found["ended"] and (found["ended"] or not done)


def reproduce(folder: Path, done: Done) -> None:
    time.perf_counter = float  # type: ignore[assignment]  # no seconds, which differ
    call(reproduce_main, "--preset", "tiny", "--jobs", "1", "--out", str(folder))
    done.value = 1


def reproduction_kept(folder: Path, done: int) -> None:
    run_kept(folder, 0)
    assert not done or (folder / "report.html").exists()
    if (folder / "rows.jsonl").exists():
        ended = {row.case for row in rows.read(folder / "rows.jsonl") if row.metric == "finished"}
        assert all((folder / "runs" / case).is_dir() for case in ended)


# A benchmark's cells; a merge; a redraw; a gate


def measure(folder: Path, done: Done) -> None:
    with mock.patch.object(bench_main, "measure_or_say_why", isolate._measure):
        words = ["run", "float_operations", "--models", "lenet5", "--out", str(folder)]
        call(bench_main, *words, "--methods", "full-zo", "elastic-1", "elastic-2")
    done.value = 1


def cells_kept(folder: Path, done: int) -> None:
    found = rows.read(folder / "rows.jsonl") if (folder / "rows.jsonl").exists() else []
    cells = [row.config["cell"] for row in found]
    assert len(set(cells)) == 3 or not done
    assert all(cells.count(cell) == cells.count(cells[0]) for cell in cells)


def prepare_two(folder: Path) -> None:
    for name, method in (("a", "full-zo"), ("b", "full-bp")):
        run = replace(FIRST, method=method)
        made = {"model": run.model, "data": run.data, "method": method, "seed": 0, "step": 20}
        found = [
            Row(run.case, metric, 90.0, unit, config=run.settled().config, **made)
            for metric, unit in (("test_accuracy", "%"), ("test_loss", "nat"), ("finished", "step"))
        ]
        rows.write(folder / name / "rows.jsonl", found)
        Request("tiny").write(folder / name)


def merge(folder: Path, done: Done) -> None:
    call(reproduce_main, "merge", *(str(folder / n) for n in "ab"), "--out", str(folder / "m"))
    done.value = 1


def merge_kept(folder: Path, done: int) -> None:
    assert all(len(rows.read(folder / name / "rows.jsonl")) == 3 for name in "ab")
    if done or (folder / "m" / "rows.jsonl").exists():
        assert len(rows.read(folder / "m" / "rows.jsonl")) == 6


def redraw(folder: Path, done: Done) -> None:
    call(reproduce_main, "--redraw", str(folder / "a"))
    done.value = 1


def redraw_kept(folder: Path, done: int) -> None:
    assert len(rows.read(folder / "a" / "rows.jsonl")) == 3
    whole_report(folder / "a", done)


def whole_report(folder: Path, done: int) -> None:
    """Each file of a report is whole or not there."""
    ends = {"report.html": "</html>\n", "claims.json": "]\n"}
    for name, end in ends.items():
        if done or (folder / name).exists():
            assert (folder / name).read_text(encoding="utf-8").endswith(end), name


def judge(folder: Path, done: Done) -> None:
    found = [Finding(gate.CELLS[0], name, None, None, "same") for name in ("a", "b")]
    with (
        mock.patch.object(gate, "build_sides", return_value={}),
        mock.patch.object(gate.Gate, "compare", return_value=found),
    ):
        words = ["--json", str(folder / "g.json"), "--markdown", str(folder / "g.md")]
        call(bench_main, "gate", "--base", "HEAD", *words)
    done.value = 1


def gate_kept(folder: Path, done: int) -> None:
    if done or (folder / "g.json").exists():
        found = json.loads((folder / "g.json").read_text(encoding="utf-8"))
        assert bool(found["error"]) == (not found["findings"]) and (found["findings"] or not done)


def call(program: Any, *words: str) -> None:
    with mock.patch.object(sys, "argv", [program.__name__, *words]):
        status = program.main()
    assert status == 0, f"{' '.join(words)} ended with {status}"


def nothing(folder: Path) -> None:
    """Nothing to prepare."""


def files(folder: Path) -> dict[str, str]:
    """Digests of all files, but what holds seconds, and what only one that works there has."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "lock":
            data = path.read_bytes()
            if path.name == "rows.jsonl":
                kept = [replace(r, value=0) if r.unit == "s" else r for r in rows.read(path)]
                data = "\n".join(row.json() for row in kept).encode()
            if path.suffix == ".safetensors":
                data = checkpoint.digest(checkpoint.load(path)["model"]).encode()
            found[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return found


SCENES = {
    "checkpoint": Scene(50, nothing, save_checkpoints, checkpoint_kept, files),
    "rows": Scene(40, nothing, save_rows, rows_kept, files),
    "train": Scene(30, nothing, train, run_kept, files),
    "reproduce": Scene(20, nothing, reproduce, reproduction_kept, files),
    "cells": Scene(20, nothing, measure, cells_kept, files),
    "merge": Scene(15, prepare_two, merge, merge_kept, files),
    "redraw": Scene(15, prepare_two, redraw, redraw_kept, files),
    "gate": Scene(10, nothing, judge, gate_kept, files),
}


# Killing


@dataclass(frozen=True)
class Kill:
    """When a process dies: after seconds, before the n-th change, or at a file's n-th byte."""

    seconds: float | None = None
    change: int | None = None
    byte: int | None = None

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"after {self.seconds:.3f} s"
        return f"at change {self.change}" if self.change is not None else f"at byte {self.byte}"


def run(work: Callable[[], None], kill: Kill) -> bool:
    """Do it in a process of its own; returns whether it ended by itself.

    Raises:
        AssertionError: it failed.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which it does not use
        child = os.fork()
    if child == 0:
        status = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if kill.byte is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
                resource.setrlimit(resource.RLIMIT_FSIZE, (kill.byte, kill.byte))
            if kill.change is not None:
                sys.addaudithook(_die_at(kill.change))
            with open(os.devnull, "w") as null, contextlib.redirect_stdout(null):
                work()
            status = 0
        except BaseException:
            traceback.print_exc()
        os._exit(status)
    until = time.monotonic() + (3600 if kill.seconds is None else kill.seconds)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        time.sleep(0.0005)
    if ended == (0, 0):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(ended[1])
    assert code in (0, -signal.SIGKILL, -signal.SIGXFSZ), f"it failed with {code}"
    return code == 0


def _die_at(change: int) -> Callable[[str, tuple[Any, ...]], None]:
    left = [change]

    def hook(event: str, values: tuple[Any, ...]) -> None:
        if event in CHANGES and (event != "open" or (values[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            left[0] -= 1
            if left[0] < 0:
                os.killpg(0, signal.SIGKILL)

    return hook


def play(scene: Scene, kills: int, chance: random.Random, root: Path) -> Iterator[str]:
    """Kill a scene so many times; yields a line for each kill.

    Raises:
        AssertionError: something finished was lost, or other bits came in the end.
    """
    whole, done = _new(scene, root / "whole"), Done()
    started = time.monotonic()
    assert run(partial(scene.work, whole, done), Kill())
    seconds = time.monotonic() - started
    expected = scene.bits(whole)
    largest = max(path.stat().st_size for path in whole.rglob("*") if path.is_file())
    changes = 3 * len(expected) + 2 * SAVES
    met = 0
    while met < kills:
        folder, done = _new(scene, root / "killed"), Done()
        for _ in range(KILLS_OF_ONE):
            kill = chance.choice(
                (
                    Kill(seconds=chance.uniform(0, seconds)),
                    Kill(change=chance.randrange(changes)),
                    Kill(byte=chance.randrange(1, largest)),
                )
            )
            ended = run(partial(scene.work, folder, done), kill)
            scene.kept(folder, done.value)
            if ended:
                break
            met += 1
            yield f"killed {kill}"
            if met == kills:
                break
        assert run(partial(scene.work, folder, done), Kill())
        scene.kept(folder, done.value)
        # What a worker that outlived its driver left half written goes at the next start.
        found = {f: x for f, x in scene.bits(folder).items() if ".ezo-tmp" not in str(f)}
        differing = [f for f in {**expected, **found} if expected.get(f) != found.get(f)]
        assert not differing, f"other bits than without kills: {differing}"


def same_source() -> str:
    """Let every process stamp its rows with the sources of now, and say which those are.

    Each would look for itself, and see what is committed or edited while this runs.
    """
    found = rows.provenance()
    stamp.here()
    grid.source_digest = functools.cache(grid.source_digest)
    grid.source_digest()
    return f"commit {found['commit'] or 'unknown'}{', with changes' if found['dirty'] else ''}"


def _new(scene: Scene, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    scene.prepare(folder)
    return folder


@contextlib.contextmanager
def tiny_preset() -> Iterator[None]:
    """A preset of two runs, ``tiny``."""
    runs = {"first": Experiment("training", lambda: [FIRST, SECOND])}
    with mock.patch.dict(presets.PRESETS, {"tiny": Preset("Two runs.", runs)}):
        yield


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path)
    parser.add_argument("--scenes", nargs="+", choices=SCENES, default=list(SCENES))
    given = parser.parse_args()
    torch.set_num_threads(1)  # a process that has threads can't be forked
    chance = random.Random(given.seed)
    if given.log:
        given.log.parent.mkdir(parents=True, exist_ok=True)
    lines: list[str] = []

    def say(line: str) -> None:  # at once: what was met before a fault is in the log, too
        lines.append(line)
        print(line, flush=True)
        if given.log:
            given.log.write_text("\n".join(lines) + "\n", encoding="utf-8")

    say(f"{same_source()}, python tests/kills.py {' '.join(sys.argv[1:])}")
    shares = sum(SCENES[name].share for name in given.scenes)
    with tiny_preset(), tempfile.TemporaryDirectory(prefix="ezo-kills-") as root:
        for name in given.scenes:
            kills = max(1, round(given.kills * SCENES[name].share / shares))
            for line in play(SCENES[name], kills, chance, Path(root) / name):
                say(f"kill {len(lines)}: {name}: {line}")
    end = "nothing that had finished was lost, and every end has the bits of one without kills"
    say(f"{len(lines) - 1} kills: {end}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
