"""A run's data and settings."""

import gzip
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ezo import catalogue
from ezo import train as training
from ezo.methods import Hyper
from ezo.train import Run, load, train
from ezo.tuned import tuned
from tests.runs import RUN

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data


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
