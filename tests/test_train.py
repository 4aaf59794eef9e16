"""A run gives the documented rows, learns, and says why where it can't."""

import itertools
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ezo import checkpoint, rows
from ezo import train as training
from ezo.methods import Hyper
from ezo.optim import ElasticZO
from ezo.precisions import EVALUATION_BATCH, fp32
from ezo.rows import Row
from ezo.train import Run, build, load, train
from tests.runs import LENET, METHODS, RUN, timeless, values

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data


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
