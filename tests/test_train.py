"""A run gives the documented rows, and the same bits again, stopped or not."""

import contextlib
import gzip
import itertools
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ezo import catalogue, checkpoint, int8, rows
from ezo import train as training
from ezo.methods import Hyper
from ezo.optim import ElasticZO
from ezo.precisions import EVALUATION_BATCH, fp32
from ezo.rows import Row
from ezo.train import Run, build, load, train
from ezo.tuned import tuned

# tiny-images has 44 training examples: 5 steps of 8 an epoch, 4 examples wait for the next.
RUN = Run("tiny", "tiny-images", "elastic-1", epochs=2, batch_size=8)
LENET = Run("lenet5", "digits", "elastic-1", epochs=1, batch_size=16, train_examples=64)
METHODS = ["elastic-1", "full-zo", "full-bp", "full-bp-checkpoint"]
RUNS = [replace(RUN, method=method) for method in METHODS]
RUNS += [
    replace(RUN, model="plain", method=method, precision=precision)
    for method, precision in (
        ("elastic-1", "int8"),
        ("full-zo", "int8"),
        ("full-bp", "int8"),
        ("tail-only-1", "int8"),
        ("elastic-1", "int8*"),
    )
]
every_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.method}-{run.precision}")


@pytest.fixture(autouse=True)
def networks(tiny: None) -> None:
    """The tiny model and data set are there in every test."""


def timeless(measured: list[Row]) -> list[Row]:
    """Rows without what may differ between two runs of the same: time."""
    return [replace(r, value=0.0) if r.metric == "train_seconds" else r for r in measured]


def values(measured: list[Row], metric: str) -> list[float]:
    found = [row.value for row in measured if row.metric == metric]
    assert None not in found
    return found  # type: ignore[return-value]


# Rows


EPOCH = [
    ("train_loss", "nat"),
    ("train_seconds", "s"),
    ("forward_passes", "pass"),
    ("test_accuracy", "%"),
    ("test_loss", "nat"),
]


def test_rows_come_in_the_documented_order_with_units() -> None:
    got = [(row.step, row.metric, row.unit) for row in train(RUN)]
    expected = [(0, "test_accuracy", "%"), (0, "test_loss", "nat")]
    expected += [(step, metric, unit) for step in (5, 10) for metric, unit in EPOCH]
    assert got == [*expected, (10, "finished", "step")]


def test_rows_say_which_run_they_are_from() -> None:
    measured = list(train(replace(RUN, seed=3, hyper=Hyper(lr=0.01))))
    for row in measured:
        assert (row.model, row.data, row.method) == ("tiny", "tiny-images", "elastic-1")
        assert (row.seed, row.precision, row.threads, row.device) == (3, "fp32", 1, "cpu")
        assert row.config["lr"] == 0.01 and row.config["epochs"] == 2
        assert row.config["batch_size"] == 8 and row.config["schedule"] == "exponential"
        assert row.data_checksum == load(RUN).checksum
        assert row.versions["torch"] == torch.__version__
    assert len({row.case for row in measured}) == 1


@pytest.mark.parametrize(
    ("method", "hyper", "passes"),
    [
        ("elastic-1", Hyper(), 2),
        ("full-zo", Hyper(queries=3), 6),
        ("elastic-1", Hyper(bp_gradient="unperturbed"), 3),
        ("full-bp", Hyper(), 1),
        ("tail-only-1", Hyper(), 1),
    ],
)
def test_forward_passes_are_counted(method: str, hyper: Hyper, passes: int) -> None:
    measured = list(train(replace(RUN, method=method, hyper=hyper)))
    assert values(measured, "forward_passes") == [5 * passes, 10 * passes]


def test_seconds_grow_and_leave_out_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = training._Loop._evaluate

    def slow(loop: Any) -> list[Row]:
        time.sleep(0.6)
        return evaluate(loop)

    list(train(RUN))  # warm
    monkeypatch.setattr(training._Loop, "_evaluate", slow)
    first, second = values(list(train(RUN)), "train_seconds")
    assert 0 < first < second < 1.8  # three evaluations


def test_no_epochs_evaluates_the_initial_weights() -> None:
    run = replace(LENET, epochs=0)
    accuracy, loss, finished = train(run)
    data, model = load(run), build(run, 10, 1).eval()
    assert len(data.test_x) > EVALUATION_BATCH
    with torch.no_grad():
        logits = model(data.test_x)
    right = (logits.argmax(1) == data.test_y).double().mean().item()
    assert accuracy.value == pytest.approx(100 * right)
    assert loss.value == pytest.approx(
        nn.functional.cross_entropy(logits, data.test_y).item(), rel=1e-5
    )
    assert (finished.metric, finished.value) == ("finished", 0)
    assert finished.note == checkpoint.digest(model.state_dict())


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
def test_training_is_sgd_with_the_schedule(schedule: str) -> None:
    """The oracle: torch's SGD on the whole set as one batch, so that order does not matter."""
    hyper = Hyper(bp_lr=0.05, momentum=0.8, weight_decay=0.01, schedule=schedule)
    run = Run(
        "lenet5", "digits", "full-bp", epochs=4, batch_size=64, train_examples=64, hyper=hyper
    )
    measured = list(train(run))

    data, model = load(run), build(run, 10, 1)
    sgd = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.8, weight_decay=0.01)
    train_losses, test_losses = [], []
    for epoch in range(4):
        if schedule == "cosine":
            sgd.param_groups[0]["lr"] = 0.05 * (1 + math.cos(math.pi * epoch / 4)) / 2
        sgd.zero_grad()
        loss = nn.functional.cross_entropy(model(data.train_x), data.train_y)
        loss.backward()
        sgd.step()
        train_losses.append(loss.item())
        with torch.no_grad():
            test_losses.append(nn.functional.cross_entropy(model(data.test_x), data.test_y).item())
    assert values(measured, "train_loss") == pytest.approx(train_losses, rel=1e-4)
    assert values(measured, "test_loss")[1:] == pytest.approx(test_losses, rel=1e-4)


@pytest.mark.parametrize(
    ("schedule", "done", "factor"),
    [
        ("exponential", 0.0, 1.0),
        ("exponential", 0.5, math.sqrt(0.03)),
        ("exponential", 1.0, 0.03),
        ("cosine", 0.0, 1.0),
        ("cosine", 1 / 3, 0.75),
        ("cosine", 0.5, 0.5),
        ("cosine", 1.0, 0.0),
        ("constant", 0.0, 1.0),
        ("constant", 0.9, 1.0),
    ],
)
def test_schedule(schedule: str, done: float, factor: float) -> None:
    assert fp32.schedule(schedule, done) == pytest.approx(factor, abs=1e-12)


def test_schedule_drives_both_parts_and_starts_at_the_full_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []
    step = ElasticZO.step

    def noting(self: ElasticZO, closure: Any) -> Any:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, closure)

    monkeypatch.setattr(ElasticZO, "step", noting)
    list(train(replace(RUN, hyper=Hyper(lr=1e-3, bp_lr=0.1))))
    factors = [0.03 ** (i / 10) for i in range(10)]
    assert seen == [[pytest.approx(1e-3 * f), pytest.approx(0.1 * f)] for f in factors]


def test_training_learns() -> None:
    run = replace(RUN, method="full-bp", epochs=20, hyper=Hyper(bp_lr=0.1))
    accuracies = values(list(train(run)), "test_accuracy")
    assert accuracies[-1] > 80 > accuracies[0]


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


# Divergence


def losses(monkeypatch: pytest.MonkeyPatch, bad: float, at_call: int) -> None:
    """The ``at_call``-th training loss is ``bad``."""
    calls = itertools.count()
    forward = nn.CrossEntropyLoss.forward

    def broken(self: nn.CrossEntropyLoss, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = forward(self, x, y)
        return loss * bad if next(calls) == at_call else loss

    monkeypatch.setattr(nn.CrossEntropyLoss, "forward", broken)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_divergence_ends_the_run_with_a_row_that_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, bad: float
) -> None:
    run = replace(RUN, method=method)
    passes = 1 if method.startswith("full-bp") else 2
    expected = timeless(list(train(run)))[:7]
    losses(monkeypatch, bad, at_call=7 * passes)
    got = list(train(run, out=tmp_path))
    assert timeless(got)[:7] == expected  # step 0 and the first epoch
    assert len(got) == 8
    last = got[-1]
    assert (last.metric, last.value, last.step, last.unit) == ("diverged", 7, 7, "step")
    assert last.note == f"the loss is {bad} at step 7; lower the learning rate or clip g"
    assert list(train(run, out=tmp_path)) == got  # no other try
    assert rows.read(tmp_path / "rows.jsonl") == got


def test_weights_that_end_not_finite_are_no_finished_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, calls = ElasticZO.step, itertools.count(1)

    def spoiling(self: ElasticZO, closure: Any) -> Any:
        loss = step(self, closure)
        if next(calls) == 10:
            with torch.no_grad():
                self.param_groups[-1]["params"][-1][0] = math.nan
        return loss

    expected = timeless(list(train(RUN)))
    monkeypatch.setattr(ElasticZO, "step", spoiling)
    got = list(itertools.islice(train(RUN, out=tmp_path), 12))  # stopped before its last row
    assert timeless(got)[:10] == expected[:10]
    *_, last = got = list(train(RUN, out=tmp_path))
    assert len(got) == 13 and (last.metric, last.value) == ("diverged", 10)
    assert last.note == "the test loss is not finite at step 10; lower the learning rate or clip g"
    assert rows.read(tmp_path / "rows.jsonl")[-1] == last


@pytest.mark.parametrize(("method", "rate"), [("full-bp", "bp_lr"), ("full-zo", "lr")])
def test_a_huge_learning_rate_diverges(method: str, rate: str) -> None:
    hyper = replace(Hyper(clip=None), **{rate: 1e30})  # type: ignore[arg-type]
    run = replace(LENET, method=method, hyper=hyper, epochs=3)
    measured = list(train(run))
    assert measured[-1].metric == "diverged"
    assert "the loss is" in measured[-1].note
    assert [row.metric for row in measured].count("diverged") == 1


# Data


def test_train_examples_are_the_first() -> None:
    whole, part = load(RUN), load(replace(RUN, train_examples=16))
    assert torch.equal(part.train_x, whole.train_x[:16])
    assert torch.equal(part.train_y, whole.train_y[:16])
    assert torch.equal(part.test_x, whole.test_x) and torch.equal(part.test_y, whole.test_y)
    assert part.checksum != whole.checksum and part.augment is whole.augment
    assert load(replace(RUN, train_examples=44)).checksum == whole.checksum


def test_held_out_examples_are_the_last_and_replace_the_test_set() -> None:
    whole, held = load(RUN), load(replace(RUN, held_out=10))
    assert torch.equal(held.train_x, whole.train_x[:34])
    assert torch.equal(held.test_x, whole.train_x[34:])
    assert torch.equal(held.test_y, whole.train_y[34:])
    both = load(replace(RUN, held_out=10, train_examples=8))
    assert torch.equal(both.train_x, whole.train_x[:8])
    assert torch.equal(both.test_x, whole.train_x[34:])
    everything = load(replace(RUN, held_out=10, train_examples=34))
    assert torch.equal(everything.train_x, whole.train_x[:34])


def test_rows_say_that_they_are_on_held_out_examples() -> None:
    for held_out, note in ((10, "on held-out training examples"), (0, "")):
        measured = list(train(replace(RUN, held_out=held_out, epochs=1)))
        assert {row.note for row in measured if row.metric.startswith("test_")} == {note}


@pytest.mark.parametrize(
    "change", [{"train_examples": 7}, {"held_out": 40}, {"batch_size": 45}, {"held_out": 100}]
)
def test_too_few_examples_for_a_batch_is_an_error(change: dict[str, Any]) -> None:
    run = replace(RUN, **change)
    with pytest.raises(ValueError, match=f"at least one batch of {run.batch_size} examples, got"):
        list(train(run))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_examples": 45}, "of 44 or fewer, as many as tiny-images has, got 45; ask for"),
        ({"train_examples": 35, "held_out": 10}, "of 34 or fewer, .* beside 10 held out, got 35"),
    ],
)
def test_more_examples_than_there_are_is_an_error(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"expected train_examples {message}"):
        load(replace(RUN, **change))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        ("lenet5", "shapes-2", "expected data of image for lenet5, got points from shapes-2"),
        ("pointnet", "tiny-images", "expected data of points for pointnet, got image"),
    ],
)
def test_a_model_refuses_the_wrong_kind_of_input(model: str, data: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(train(Run(model, data, "full-bp")))


def test_a_model_of_points_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    data = catalogue.find("data", "shapes-16").load("shapes-16")
    few = replace(data, train_x=data.train_x[:8], train_y=data.train_y[:8], test_x=data.test_x[:8],
                  test_y=data.test_y[:8])  # fmt: skip
    monkeypatch.setattr(training, "load", lambda run, root: few)
    measured = list(train(Run("pointnet", "shapes-16", "elastic-1", epochs=1, batch_size=4)))
    assert (measured[-1].metric, measured[-1].step) == ("finished", 2)


def test_data_on_another_device_keep_the_checksum(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the device ``meta``, which has no numbers to take a checksum of, as on a GPU."""
    loop = training._Loop(RUN.settled(), None, None, torch.device("meta"), 1)
    for name in ("train_x", "train_y", "test_x", "test_y"):
        assert getattr(loop.examples, name).is_meta
    assert loop.data_checksum == load(RUN).checksum
    assert all(p.is_meta for p in loop.model.parameters())


# Settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "nonsense"}, "unknown model 'nonsense'; known: .*lenet5"),
        ({"data": "nonsense"}, "unknown data 'nonsense'; known: .*digits"),
        ({"method": "nonsense"}, "unknown method 'nonsense'; known: elastic-<k>"),
        ({"precision": "fp3"}, "unknown precision 'fp3'; known: bf16, fp16, fp32"),
        ({"epochs": -1}, "expected epochs of 0 or more, got -1"),
        ({"batch_size": 0}, "expected batch_size of 1 or more, got 0"),
        ({"seed": -1}, "expected seed of 0 or more, got -1"),
        ({"held_out": -1}, "expected held_out of 0 or more, got -1"),
        ({"train_examples": 0}, "expected train_examples of 1 or more, or None for all, got 0"),
        (
            {"hyper": Hyper(schedule="no")},
            "unknown schedule 'no'; known: exponential, cosine, constant",
        ),
        ({"hyper": Hyper(clip=math.inf)}, "expected clip to be finite, got inf"),
        ({"hyper": Hyper(lr=math.nan)}, "expected lr to be finite, got nan"),
        ({"hyper": Hyper(eps=0.0)}, "expected eps to be a finite number above 0, got 0.0"),
        ({"method": "elastic-4"}, "expected 0 to 3 BP layers, got 4"),
    ],
)
def test_unusable_settings_are_an_error_before_anything_is_written(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        list(train(replace(RUN, **change), out=out))
    assert not out.exists()


@pytest.mark.parametrize("checkpoint_steps", [0, -1])
def test_checkpoint_steps_must_be_positive(checkpoint_steps: int) -> None:
    with pytest.raises(ValueError, match="expected checkpoint_steps of 1 or more"):
        next(train(RUN, checkpoint_steps=checkpoint_steps))


def test_the_case_of_a_fp32_run_stays_what_it_was() -> None:
    """Rows of the past are found by it."""
    path = Path(__file__).parent.parent / "reports" / "search" / "lenet5-mnist.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        named = [row for row in map(json.loads, file) if row["case"].endswith("-b6b0d47c")]
    row = named[0]
    names = {field.name for field in fields(Hyper)}
    hyper = Hyper(**{name: value for name, value in row["config"].items() if name in names})
    rest = {name: value for name, value in row["config"].items() if name not in names}
    run = Run(row["model"], row["data"], row["method"], seed=row["seed"], hyper=hyper, **rest)
    assert run.case == row["case"] == "lenet5-mnist-full-zo-fp32-seed1000-b6b0d47c"


def test_case_is_a_file_name_and_differs_wherever_a_setting_does() -> None:
    runs = [
        RUN, replace(RUN, epochs=3), replace(RUN, batch_size=4), replace(RUN, seed=1),
        replace(RUN, train_examples=20), replace(RUN, held_out=4), replace(RUN, method="full-bp"),
        replace(RUN, hyper=Hyper(lr=1.0)), replace(RUN, hyper=Hyper(clip=None)),
        replace(RUN, precision="int8"), replace(RUN, precision="int8*"),
    ]  # fmt: skip
    cases = {run.case for run in runs}
    assert len(cases) == len(runs)
    assert all(case.startswith("tiny-tiny-images-") and not set(case) & set("/*") for case in cases)
    assert RUN.case == RUN.settled().case == replace(RUN, hyper=Hyper()).case


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_names_are_looked_up_a_few_times_however_long_the_run(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    find = catalogue.find
    monkeypatch.setattr(catalogue, "find", lambda *names: [calls.append(names[1]), find(*names)][1])
    counts = []
    for epochs in (0, 1, 3):
        run = replace(RUN, model="plain", precision=precision, epochs=epochs)
        list(train(run, out=tmp_path / str(epochs)))
        counts.append(len(calls))
        calls.clear()
    assert 4 <= counts[0] < 10 and set(counts) == {counts[0]}


def test_a_settled_run_is_the_run_with_its_files_and_values() -> None:
    settled = RUN.settled()
    assert settled.run == replace(RUN, hyper=Hyper()) and settled.settled() is settled
    assert settled.files == {k: catalogue.find(k, getattr(RUN, k)) for k in catalogue.OF_A_RUN}
    assert settled.case == RUN.case
    assert settled.source == "the defaults of elastic-1: none were searched for tiny on tiny-images"


@pytest.mark.parametrize(
    ("data", "method", "source"),
    [
        ("mnist", "elastic-2", "searched for lenet5 on mnist by elastic-2"),
        ("fashion-mnist", "elastic-4", "of the nearest search, lenet5 on mnist by elastic-2"),
        ("mnist-rot30", "full-zo", "of the nearest search, lenet5 on mnist by full-zo"),
    ],
)
def test_a_run_knows_where_its_values_come_from(data: str, method: str, source: str) -> None:
    settled = Run("lenet5", data, method).settled()
    assert settled.source == source
    name = source.rpartition(" ")[2]
    assert settled.run.hyper == tuned("lenet5", "mnist", name) != Hyper()


def test_config_is_flat_and_holds_every_setting() -> None:
    run = replace(RUN, hyper=Hyper(clip=None, queries=2), held_out=4)
    config = run.settled().config
    assert config["clip"] is None and config["queries"] == 2 and config["held_out"] == 4
    assert not any(isinstance(value, (dict, list, tuple)) for value in config.values())
