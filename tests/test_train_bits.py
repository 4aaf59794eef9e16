"""A run gives the same bits again, stopped or not."""

import contextlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ezo import checkpoint, int8, rows
from ezo import train as training
from ezo.methods import Hyper
from ezo.optim import ElasticZO
from ezo.rows import Row
from ezo.train import Run, build, load, train
from tests.runs import LENET, RUN, every_run, timeless, values

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data


# The same bits


@every_run
def test_two_runs_give_the_same_rows(run: Run) -> None:
    first = timeless(list(train(run)))
    torch.rand(5)
    assert timeless(list(train(run))) == first


@pytest.mark.parametrize("change", [{"seed": 1}, {"hyper": Hyper(bp_lr=0.02)}, {"epochs": 3}])
def test_another_run_gives_other_weights_and_another_case(change: dict[str, Any]) -> None:
    run = replace(RUN, **change)
    assert run.case != RUN.case
    assert list(train(run))[-1].note != list(train(RUN))[-1].note


def test_each_epoch_has_an_order_of_its_own_without_repeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[int] = []
    data = replace(
        load(RUN), train_x=torch.arange(44.0).view(44, 1, 1, 1).expand(44, 1, 4, 4), augment=None
    )
    monkeypatch.setattr(training, "load", lambda run, root: data)
    model = build(RUN, 3, 1)
    model.register_forward_pre_hook(lambda m, x: seen.extend(x[0][:, 0, 0, 0].int().tolist()))
    monkeypatch.setattr(training, "build", lambda *_: model)
    monkeypatch.setattr(training._Loop, "_evaluate", lambda loop: [])
    list(train(replace(RUN, method="full-bp")))
    first, second = seen[:40], seen[40:]
    assert len(second) == 40 and first != second
    assert len(set(first)) == len(set(second)) == 40
    assert set(first) | set(second) <= set(range(44))


@every_run
def test_global_generator_is_never_touched(run: Run, tmp_path: Path) -> None:
    torch.manual_seed(9)
    before = torch.get_rng_state()
    for _ in train(run, out=tmp_path, checkpoint_steps=2):
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_consumers_random_numbers_change_nothing() -> None:
    expected = timeless(list(train(RUN)))
    got = []
    for row in train(RUN):
        got.append(row)
        torch.manual_seed(len(got))
        torch.rand(3)
    assert timeless(got) == expected


def test_evaluation_leaves_training_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = list(train(RUN))[-1].note
    monkeypatch.setattr(training._Loop, "_evaluate", lambda loop: [])
    assert list(train(RUN))[-1].note == expected


@pytest.mark.parametrize("checkpoint_steps", [1, 3, 100])
def test_checkpoints_change_nothing(tmp_path: Path, checkpoint_steps: int) -> None:
    expected = timeless(list(train(RUN)))
    got = list(train(RUN, out=tmp_path, checkpoint_steps=checkpoint_steps))
    assert timeless(got) == expected
    assert rows.read(tmp_path / "rows.jsonl") == got
    state = checkpoint.load(tmp_path / "checkpoint.safetensors")
    assert checkpoint.digest(state["model"]) == got[-1].note


# Stopped and resumed


class Killed(BaseException):
    """Stands for a kill: no library code catches it."""


@contextlib.contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """Raises `Killed` at the ``moment``-th of the run's steps and of its dealings with files."""
    count = itertools.count()

    def maybe() -> None:
        if next(count) == moment:
            raise Killed

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            maybe()
            result = function(*arguments, **named)
            maybe()
            return result

        return wrapped

    def write(path: Path, measured: list[Row], *, append: bool) -> None:
        maybe()
        text = "".join(row.json() + "\n" for row in measured)
        with path.open("a", encoding="utf-8") as file:  # in two pieces, the first torn
            file.write(text[: len(text) // 3])
            file.flush()
            maybe()
            file.write(text[len(text) // 3 :])
        maybe()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ElasticZO, "step", around(ElasticZO.step))
        patch.setattr(int8.ElasticZO, "step", around(int8.ElasticZO.step))
        patch.setattr(rows, "write", write)
        patch.setattr(checkpoint, "save_file", around(checkpoint.save_file))
        patch.setattr(os, "replace", around(os.replace))
        try:
            yield
        except Killed:
            return


UNSTOPPED: dict[Run, list[Row]] = {}


@every_run
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    moments=st.lists(st.integers(0, 70), min_size=1, max_size=3), checkpoint_steps=st.integers(1, 6)
)
def test_a_run_killed_anywhere_goes_on_to_the_same_bits(
    run: Run,
    moments: list[int],
    checkpoint_steps: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if run not in UNSTOPPED:
        UNSTOPPED[run] = timeless(list(train(run)))
    out = tmp_path_factory.mktemp("run")
    before = torch.get_rng_state()
    for moment in moments:
        with killed_at(moment):
            list(train(run, out=out, checkpoint_steps=checkpoint_steps))
        assert torch.equal(torch.get_rng_state(), before)
    got = list(train(run, out=out, checkpoint_steps=checkpoint_steps))
    assert timeless(got) == UNSTOPPED[run]
    assert rows.read(out / "rows.jsonl") == got


@pytest.mark.parametrize("taken", range(1, 14))
def test_an_abandoned_generator_goes_on_to_the_same_bits(tmp_path: Path, taken: int) -> None:
    unstopped = list(train(RUN))
    assert len(unstopped) == 13
    first = list(itertools.islice(train(RUN, out=tmp_path), taken))
    again = list(train(RUN, out=tmp_path))
    assert again[:taken] == first
    assert timeless(again) == timeless(unstopped)


def test_time_goes_on_after_a_stop(tmp_path: Path) -> None:
    first = list(itertools.islice(train(RUN, out=tmp_path), 7))
    (until_then,) = values(first, "train_seconds")
    assert values(list(train(RUN, out=tmp_path)), "train_seconds")[1] > until_then


def test_a_finished_run_is_read_again_and_not_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = list(train(RUN, out=tmp_path))
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(files) == {"rows.jsonl", "checkpoint.safetensors", "lock"}

    def refuse(*_: Any) -> None:
        raise AssertionError("trained")

    monkeypatch.setattr(ElasticZO, "step", refuse)
    assert list(train(RUN, out=tmp_path)) == first
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == files


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "expected seed 1, got seed 0"),
        (
            {"epochs": 3, "train_examples": 16},
            "expected epochs 3, train_examples 16, got epochs 2, train_examples None",
        ),
        ({"hyper": Hyper(lr=1.0, clip=None)}, "expected lr 1.0, clip None, got lr 0.0005, clip 5"),
    ],
)
def test_another_runs_folder_is_refused_and_left_alone(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    first = list(train(RUN, out=tmp_path))
    with pytest.raises(ValueError, match=f"{message}.*: another run or .*; give another --out"):
        list(train(replace(RUN, **change), out=tmp_path))
    assert list(train(RUN, out=tmp_path)) == first


def test_a_checkpoint_of_old_without_settings_goes_on_but_for_another_run(tmp_path: Path) -> None:
    list(itertools.islice(train(RUN, out=tmp_path), 7))
    path = tmp_path / "checkpoint.safetensors"
    state = checkpoint.load(path)
    del state["settings"]
    checkpoint.save(path, state)
    with pytest.raises(ValueError, match=f"expected case .*, got case {RUN.case}: another run"):
        list(train(replace(RUN, seed=1), out=tmp_path))
    assert timeless(list(train(RUN, out=tmp_path))) == timeless(list(train(RUN)))


def test_other_data_of_the_same_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    list(itertools.islice(train(RUN, out=tmp_path), 3))
    data = load(RUN)
    changed = replace(data, test_x=data.test_x + 1)
    monkeypatch.setattr(training, "load", lambda run, root: changed)
    with pytest.raises(ValueError, match=f"expected data_checksum {changed.checksum}, got"):
        list(train(RUN, out=tmp_path))


def test_a_damaged_checkpoint_is_an_error_that_names_it(tmp_path: Path) -> None:
    list(itertools.islice(train(RUN, out=tmp_path), 3))
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: .*remove it"):
        list(train(RUN, out=tmp_path))


@pytest.mark.parametrize(("kept", "got"), [(None, "no file"), (100, "100"), (0, "0")])
def test_missing_rows_are_an_error_that_names_them(
    tmp_path: Path, kept: int | None, got: str
) -> None:
    first = list(itertools.islice(train(RUN, out=tmp_path), 7))
    path = tmp_path / "rows.jsonl"
    content = path.read_bytes()
    if kept is None:
        path.unlink()
    else:
        path.write_bytes(content[:kept])
    message = f"rows.jsonl: expected {len(content)} bytes of rows or more, .* got {got}; bring them"
    with pytest.raises(ValueError, match=message):
        list(train(RUN, out=tmp_path))
    path.write_bytes(content)
    assert list(train(RUN, out=tmp_path))[:7] == first


KILLED: dict[str, Any] = {"epochs": 3, "batch_size": 8, "train_examples": 320}


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "ezo.cli", "train", "--model", "lenet5", "--data", "digits"]
    command += ["--method", "elastic-1", "--threads", "1", "--checkpoint-steps", "3"]
    command += ["--out", str(out)]
    for name, value in KILLED.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    written = out / "checkpoint.safetensors"
    chance = random.Random(5)
    kills = 0
    while kills < 2:
        before = written.stat().st_mtime_ns if written.exists() else 0
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            give_up = time.monotonic() + 300
            while not (written.exists() and written.stat().st_mtime_ns > before):
                ended = process.poll()
                assert ended is None, process.stderr and process.stderr.read()
                assert time.monotonic() < give_up, "no checkpoint in 300 s"
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.15))
        finally:
            process.kill()
            process.communicate()
        if process.returncode == -signal.SIGKILL:
            kills += 1
        else:  # it ended before we came
            assert process.returncode == 0
            shutil.rmtree(out)
            kills = 0
    assert checkpoint.load(written)["step"] > 0
    run = replace(LENET, **KILLED)
    got = list(train(run, out=out))
    assert sourceless(timeless(got)) == sourceless(timeless(list(train(run))))
    assert rows.read(out / "rows.jsonl") == got


def sourceless(measured: list[Row]) -> list[Row]:
    """Rows without the commit, which may change between two processes while someone works."""
    return [replace(row, commit="", dirty=None) for row in measured]
