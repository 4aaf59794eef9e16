"""Integers in the training loop: schedules, inputs, evaluation, and the loss of int8*."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ezo import catalogue, checkpoint
from ezo import train as training
from ezo.data import Dataset
from ezo.int8 import FloatLoss, Int8Tensor, Loss, quantize_at
from ezo.methods import Hyper
from ezo.precisions.int8 import Int8Hyper, factor
from ezo.train import Run, _Loop, train
from ezo.tuned import tuned
from tests.backends import on

RUN = Run("plain", "tiny-images", "elastic-1", "int8", epochs=2, batch_size=8)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def networks(tiny: None) -> None:
    """The tiny models and data set are there in every test."""


def begun(run: Run) -> Any:
    return _Loop(run.settled(), None, None, CPU, 1)


# Schedules


@pytest.mark.parametrize("steps", [1, 2, 7, 1000, 37_500])
def test_factors_are_the_curves_and_integers(steps: int) -> None:
    for step in range(0, steps + 1, max(1, steps // 500)):
        done = step / steps
        for schedule, wanted, within in (
            ("constant", 1.0, 0.0),
            ("cosine", 0.5 * (1 + math.cos(math.pi * done)), 1e-3),
            ("exponential", 2 ** (-5 * done), 4e-3),
        ):
            got = factor(schedule, step, steps)
            assert type(got) is int
            assert got / 2**16 == pytest.approx(wanted, abs=within + 2**-15)
    assert factor("cosine", 0, steps) == factor("exponential", 0, steps) == 2**16
    assert factor("cosine", steps, steps) == 0 and factor("exponential", steps, steps) == 2**11


def test_rate_and_mu_follow_their_schedules() -> None:
    hyper = Int8Hyper(rate=1000, mu=1, mu_drop=2)
    ours = begun(replace(RUN, hyper=hyper))
    x, y = ours.examples.batch(torch.arange(8), torch.Generator())
    seen = []
    for step in range(9):
        ours.take_step.schedule(step, 9)
        ours.take_step(x, y)
        seen.append([{k: g[k] for k in ("rate", "mu")} for g in ours.optimizer.param_groups])
    rates = [zo["rate"] for zo, _ in seen]
    assert rates == pytest.approx(
        [500 * (1 + math.cos(math.pi * step / 9)) for step in range(9)], abs=2
    )
    assert [bp["mu"] for _, bp in seen] == [1, 1, 1, 0, 0, 0, -1, -1, -1]


# Input


def exponent_of(ours: Any) -> int:
    """That with which the network gets its input."""
    seen: list[int] = []
    watch = ours.model.register_forward_pre_hook(lambda _, given: seen.append(given[0].e))
    ours.take_step.evaluate(ours.examples.test_x, ours.examples.test_y)
    watch.remove()
    return seen[0]


def images(train_x: torch.Tensor, test_x: torch.Tensor, **more: Any) -> Dataset:
    labels = (
        torch.zeros(len(train_x), dtype=torch.int64),
        torch.zeros(len(test_x), dtype=torch.int64),
    )
    return Dataset(train_x, labels[0], test_x, labels[1], classes=3, **more)


def test_inputs_have_one_exponent_that_of_the_training_set(monkeypatch: pytest.MonkeyPatch) -> None:
    train_x = torch.zeros(8, 1, 4, 4)
    train_x[0, 0, 0] = torch.tensor([1.9, -0.5, 2**-7, 0.0])
    test_x = torch.full((1, 1, 4, 4), -3.0)
    monkeypatch.setattr(training, "load", lambda *_: images(train_x, test_x))
    ours = begun(RUN)
    x, _ = ours.examples.batch(torch.arange(8), torch.Generator())
    assert (exponent_of(ours), x.dtype) == (-6, torch.int8)  # 1.9 is 121.6 of 2^-6
    assert x[0, 0, 0].tolist() == [122, -32, 0, 0]
    assert ours.examples.test_x.unique().tolist() == [-127]


def test_augmented_batches_are_quantised_with_that_exponent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = images(torch.full((8, 1, 4, 4), 0.9), torch.zeros(1, 1, 4, 4),
                  augment=lambda x, generator: x + 0.5)  # fmt: skip
    monkeypatch.setattr(training, "load", lambda *_: data)
    ours = begun(RUN)
    x, _ = ours.examples.batch(torch.arange(8), torch.Generator())
    assert exponent_of(ours) == -7 and x.unique().tolist() == [127]  # 1.4 is 179 of 2^-7
    assert quantize_at(torch.tensor([0.5]), -7).m.tolist() == [64]


# Evaluation


def test_full_bp_takes_a_batch_whose_gradients_int32_could_not_hold() -> None:
    """Which is of more than 133,144 products, 169 images."""
    run = Run("lenet5", "digits", "full-bp", "int8", epochs=1, batch_size=300, train_examples=300)
    *_, finished = train(run)
    assert (finished.metric, finished.step) == ("finished", 1)
    with on("reference"):
        *_, wanted = train(run)
    assert finished.note == wanted.note  # the weights


def test_evaluation_is_of_the_integer_network() -> None:
    ours = begun(RUN)
    x, y = ours.examples.test_x, ours.examples.test_y
    logits = ours.model(Int8Tensor(x, exponent_of(ours))).to_float().double()
    accuracy, loss = ours.take_step.evaluate(x, y)
    assert accuracy == 100 * (logits.argmax(1) == y).double().mean().item()
    wanted = nn.functional.cross_entropy(logits, y).item()
    assert loss == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize("method", ["full-zo", "elastic-1", "full-bp", "tail-only-1"])
def test_a_model_of_points_trains(monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    data = catalogue.find("data", "shapes-16").load("shapes-16")
    few = replace(data, train_x=data.train_x[:4], train_y=data.train_y[:4], test_x=data.test_x[:4],
                  test_y=data.test_y[:4])  # fmt: skip
    monkeypatch.setattr(training, "load", lambda *_: few)
    measured = list(train(Run("pointnet", "shapes-16", method, "int8", epochs=1, batch_size=4)))
    assert (measured[-1].metric, measured[-1].step) == ("finished", 1)


# The loss of int8*


@pytest.mark.parametrize("exponent", [-20, -12, -6, -1, 3])
def test_the_floating_point_loss_is_the_integer_loss_but_for_its_rounding(exponent: int) -> None:
    generator = torch.Generator().manual_seed(2)
    m = torch.randint(-3000, 3000, (64, 10), generator=generator, dtype=torch.int32)
    y = torch.randint(0, 10, (64,), generator=generator)
    logits = Int8Tensor(m, exponent)
    exact, integer = FloatLoss(logits, y), Loss(logits, y)
    assert type(exact.total()) is int
    values = m.double() * 2.0**exponent
    bits = nn.functional.cross_entropy(values, y, reduction="sum").item() / math.log(2)
    assert exact.total() == pytest.approx(bits * 2**20, abs=1)
    assert exact.total() == pytest.approx(integer.total(), rel=3e-10, abs=64 * 9)


def test_the_floating_point_error_is_the_gradient_rounded_at_random() -> None:
    m = torch.tensor([[40, -3, 0, 9]], dtype=torch.int32).expand(4096, 4)
    y = torch.full((4096,), 3)
    u = torch.randint(0, 2**32, (4096, 4), generator=torch.Generator().manual_seed(1))
    error = FloatLoss(Int8Tensor(m, -4), y).error(u)
    wanted = (m[0].double() / 16).softmax(0) - torch.tensor([0.0, 0, 0, 1])
    assert error.dtype == torch.int8
    assert ((error - 128 * wanted).abs() < 1).all()
    assert error.double().mean(0).tolist() == pytest.approx((128 * wanted).tolist(), abs=0.03)


# Settings


def test_values_tuned_for_int8_serve_both_and_not_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {"lenet5/mnist/elastic-2/int8": {"rate": 77}, "lenet5/mnist/elastic-2": {"lr": 0.5}}
    monkeypatch.setattr("ezo.tuned._table", lambda: table)
    names = ("lenet5", "mnist", "elastic-2")
    assert tuned(*names, "int8") == tuned(*names, "int8*") == Int8Hyper(rate=77)
    assert tuned(*names) == tuned(*names, "fp32") == Hyper(lr=0.5)
    assert tuned("lenet5", "mnist", "elastic-1", "int8") == Int8Hyper()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hyper": Hyper()}, "expected Int8Hyper for int8, got Hyper"),
        ({"hyper": Int8Hyper(), "precision": "fp32"}, "expected Hyper for fp32, got Int8Hyper"),
        ({"hyper": Int8Hyper(rate=0.5)}, "expected rate to be an integer, got 0.5"),  # type: ignore
        (
            {"hyper": Int8Hyper(rate=-1)},
            "expected rate to be an integer from 0 to 16777216, got -1",
        ),
        ({"hyper": Int8Hyper(mu_drop=True)}, "expected mu_drop to be an integer, got True"),
        ({"hyper": Int8Hyper(mu=7)}, "expected mu to be an integer from -20 to 6, got 7"),
        ({"hyper": Int8Hyper(mu=-18, mu_drop=3)}, "expected mu_drop from 0 to 2, .* got 3"),
        ({"hyper": Int8Hyper(mu_drop=-1)}, "expected mu_drop from 0 to"),
        ({"hyper": Int8Hyper(growth=7)}, "expected growth from 0 to 6 bits, got 7"),
        ({"hyper": Int8Hyper(zo_growth=-1)}, "expected zo_growth from 0 to 6 bits, got -1"),
        ({"hyper": Int8Hyper(bp_gradient="no")}, "mean, plus, minus, last, unperturbed, got 'no'"),
        ({"hyper": Int8Hyper(r_max=64)}, r"expected r_max in \[1, 63\], got 64"),
        ({"hyper": Int8Hyper(p_zero=math.nan)}, r"expected p_zero in \[0, 1\), got nan"),
        (
            {"hyper": Int8Hyper(magnitude="no")},
            "magnitude to be one of sign, absolute, got 'no'",
        ),
        ({"hyper": Int8Hyper(schedule="no")}, "unknown schedule 'no'; known: exponential, cosine"),
        ({"method": "full-bp-checkpoint"}, "expected a method with an integer form, elastic-<k>"),
        ({"method": "elastic-4"}, "expected bp from 0 to 3 layers or 'all', got 4"),
        ({"method": "tail-only-0"}, "expected a layer to train, got bp=0 and zo=False"),
    ],
)
def test_unusable_settings_are_an_error_before_anything_is_written(
    tmp_path: Any, change: dict[str, Any], message: str
) -> None:
    out = tmp_path / "run"
    with pytest.raises(ValueError, match=message):
        list(train(replace(RUN, **change), out=out))
    assert not out.exists()


def test_threads_and_the_compiled_path_change_no_bit() -> None:
    run = Run("lenet5", "digits", "elastic-2", "int8", epochs=1, batch_size=8, train_examples=24)
    ends = []
    for isa, threads in (("", 1), ("", 2), ("reference", 1)):
        torch.set_num_threads(threads)
        with on(isa):
            ends.append(list(train(run))[-1].note)
    assert len(set(ends)) == 1


# Checkpoints


def test_a_checkpoint_of_before_exponents_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    run = replace(RUN, hyper=Int8Hyper(growth=2, zo_growth=1))
    whole = list(train(run))[-1]
    rows = train(run, out=tmp_path)
    while next(rows).step == 0:
        pass
    rows.close()
    path = tmp_path / "checkpoint.safetensors"
    state = checkpoint.load(path)
    named = [name for name in state["model"] if name.endswith("_exponent")]
    assert named and not state["ended"]
    state["model"] = {n: t for n, t in state["model"].items() if n not in named}
    checkpoint.save(path, state)
    end = list(train(run, out=tmp_path))[-1]
    assert (end.metric, end.note) == ("finished", whole.note)
