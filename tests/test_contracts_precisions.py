"""What every precision must satisfy, with the methods that have a form in it."""

import dataclasses
import importlib
import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tqdm import tqdm

from ezo import catalogue, methods
from ezo.methods import Hyper
from ezo.precisions.int8 import Int8Hyper
from ezo.train import Run, _Loop, build, train
from tests.members import DEEPEST, concrete_methods, examples

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data


def has_form(precision: str, method: str) -> bool:
    file = catalogue.find("precision", precision)
    try:
        file.check(method, file.default(method))
    except ValueError:
        return False
    return True


FORMS = [
    (precision, method)
    for precision in examples("precision")
    for method in concrete_methods(DEEPEST["tiny"])
    if has_form(precision, method)
]
every_form = pytest.mark.parametrize(("precision", "method"), FORMS)
in_integers = pytest.mark.parametrize(
    ("precision", "method"), [form for form in FORMS if form[0].startswith("int")]
)


def integer_run(method: str, precision: str = "int8", **changed: Any) -> Run:
    hyper = dataclasses.replace(Int8Hyper(rate=20_000), **changed)
    return Run("plain", "tiny-images", method, precision, epochs=1, batch_size=8, hyper=hyper)


def final_weights(run: Run) -> str:
    return list(train(run))[-1].note


@pytest.mark.parametrize("precision", examples("precision"))
def test_every_hyperparameter_says_what_it_is_and_has_a_default(precision: str) -> None:
    for field in dataclasses.fields(catalogue.find("precision", precision).HYPER):
        assert field.metadata["help"]
        assert field.default is not dataclasses.MISSING


@every_form
def test_default_hyperparameters_pass_and_those_read_exist(precision: str, method: str) -> None:
    file = catalogue.find("precision", precision)
    hyper = file.default(method)
    assert isinstance(hyper, file.HYPER)
    file.check(method, hyper)
    assert file.reads(method) <= {field.name for field in dataclasses.fields(hyper)}


ONE_FILE = """
import re, sys
from pathlib import Path

import ezo
from bench import memory
from bench.workload import Workload
from ezo import rows
from ezo.cli import main

assert Path(ezo.__file__).is_relative_to(sys.argv[1]), ezo.__file__
ends, tables, peaks = [], [], []
for name in ("fp32", "novel"):
    run = ["--model", "lenet5", "--precision", name]
    short = ["--data", "digits", "--method", "elastic-1", "--epochs", "1", "--batch-size", "16"]
    short += ["--lr", "1e-3", "--eps", "1e-3", "--clip", "5", "--bp-lr", "0.01"]  # not tuned ones
    short += ["--threads", "1"]
    out = Path(sys.argv[1], name)
    assert main(["train", *run, *short, "--train-examples", "32", "--out", str(out)]) == 0
    ends.append(rows.read(out / "rows.jsonl")[-1])
    print("plan")
    assert main(["plan", *run, "--batch", "4", "--budget", "1MB"]) == 0
    found = memory.measure(Workload("lenet5", "elastic-1", 4, precision=name))
    peaks.append({row.metric: row.value for row in found if "tensor" in row.metric})
assert ends[0].metric == "finished" and ends[0].note == ends[1].note
assert (ends[0].precision, ends[1].precision) == ("fp32", "novel")
assert peaks[0] == peaks[1] and peaks[0]["peak_tensor_bytes"] > 0, peaks
"""


def test_a_precision_is_one_file(tmp_path: Path) -> None:
    """fp32 under another name, in a copy of the tree: it trains, is planned and is measured."""
    for package in ("ezo", "bench"):
        folder = Path(str(importlib.import_module(package).__file__)).parent
        ignored = shutil.ignore_patterns("*.pyc", "csrc")
        shutil.copytree(folder, tmp_path / package, ignore=ignored)
    kernels = importlib.util.find_spec("ezo._kernels")
    if kernels is not None and kernels.origin:
        shutil.copy(kernels.origin, tmp_path / "ezo")
    source = (tmp_path / "ezo/precisions/fp32.py").read_text(encoding="utf-8")
    novel = source.replace('NAMES = ("fp32",)', 'NAMES = ("novel",)')
    assert novel != source
    (tmp_path / "ezo/precisions/novel.py").write_text(novel, encoding="utf-8")
    done = subprocess.run(
        # -S: without it an editable install's hook would come before the copy.
        [sys.executable, "-S", "-c", ONE_FILE, str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, ours, theirs = done.stdout.split("plan\n")
    assert "elastic-1" in ours and ours.partition("step ")[0] == theirs


OTHER_INTEGER: dict[str, Any] = {
    "rate": 30_000, "r_max": 7, "p_zero": 0.1, "magnitude": "sign", "mu": 4, "mu_drop": 0,
    "growth": 2, "zo_growth": 1, "bp_gradient": "mean", "largest_difference": 1, "fraction": 8,
    "queries": 2, "schedule": "constant", "rate_node": 30_000, "sigma": 2, "node_growth": 0,
    "sparse": 1, "bias_growth": 12,
}  # fmt: skip
SEEN = {"fraction": 0, "rate": 1 << 16}  # steps of whole last places


@pytest.mark.parametrize(
    ("precision", "method"),
    [(p, m) for p, m in FORMS if p.startswith("int") and m in concrete_methods(deepest=1)],
)
def test_method_reads_the_integer_hyperparameters_that_its_precision_says(
    precision: str, method: str
) -> None:
    first = final_weights(integer_run(method, precision, **SEEN))
    read = {
        name
        for name, value in OTHER_INTEGER.items()
        if final_weights(integer_run(method, precision, **{**SEEN, name: value})) != first
    }
    assert set(OTHER_INTEGER) == {field.name for field in dataclasses.fields(Int8Hyper)}
    assert read == catalogue.find("precision", precision).reads(method)


@in_integers
def test_integer_method_moves_the_layers_that_its_fp32_form_moves(
    precision: str, method: str
) -> None:
    loop = _Loop(
        integer_run(method, precision, fraction=0, rate=1 << 20, rate_node=1 << 20).settled(),
        None,
        None,
        torch.device("cpu"),
        1,
    )
    before = [p.clone() for p in loop.model.parameters()]
    list(loop.rows(tqdm(disable=True)))
    after = list(loop.model.parameters())
    moved = [not torch.equal(p, q) for p, q in zip(before, after, strict=True)]
    model = build(loop.run, 3, 1)
    methods.optimizer(method, model, Hyper(), 0)
    assert moved == [p.requires_grad for p in model.parameters()]
    assert all(p.dtype == torch.int8 for p in after)


@in_integers
def test_integer_training_learns(precision: str, method: str) -> None:
    rates = {"rate": 500_000, "rate_node": 100_000, "mu": 3, "mu_drop": 0}
    run = integer_run(method, precision, **rates, schedule="constant")
    measured = train(dataclasses.replace(run, epochs=30))
    losses = [row.value or math.nan for row in measured if row.metric == "test_loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("ends", "same_as"), [("elastic-0", "full-zo"), ("elastic-3", "full-bp")])
def test_integer_elastic_at_its_ends_is_the_full_method(ends: str, same_as: str) -> None:
    assert final_weights(integer_run(ends)) == final_weights(integer_run(same_as))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["full-zo", "elastic-1", "full-bp"])
def test_training_in_16_bits_learns(precision: str, method: str) -> None:
    run = Run("plain", "tiny-images", method, precision, epochs=10, batch_size=8)
    measured = list(train(run))
    losses = [row.value or math.nan for row in measured if row.metric == "test_loss"]
    assert losses[-1] < losses[0]
