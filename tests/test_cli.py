"""The command line prints what a run measures, explains itself, and fails with a reason."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from ezo import catalogue, noise, rows, train
from ezo.cli import main
from ezo.methods import Hyper
from ezo.precisions.int8 import Int8Hyper
from ezo.rows import Row
from ezo.run import Run, Settled

TRAIN = ["train", "--model", "tiny", "--data", "tiny-images", "--method", "elastic-1"]
SHORT = [*TRAIN, "--epochs", "1", "--batch-size", "8"]


@pytest.fixture(autouse=True)
def networks(tiny: None) -> None:
    """The tiny model and data set are there in every test."""


def test_list_shows_every_name_and_description_in_two_columns(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    column = 4 + max(len(name) for kind in catalogue.KINDS for name in catalogue.names(kind))
    expected = []
    for kind in catalogue.KINDS:
        expected.append([f"{kind}:"])
        for module in catalogue.members(kind):
            expected.append([f"  {module.NAMES[0]}", (module.__doc__ or "").splitlines()[0]])
            expected += [[f"  {name}", module.ABOUT[name]] for name in module.NAMES[1:]]
    expected += [["noise:"], *([f"  {name}", text] for name, text in noise.ABOUT.items())]
    assert [[x for x in (line[:column].rstrip(), line[column:]) if x] for line in lines] == expected


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_is_gone_ends_it_without_a_traceback(unbuffered: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "ezo.cli", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
    ) as process:  # fmt: skip
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_train_prints_each_number_and_ends_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(SHORT) == 0
    measured = list(train.train(Run("tiny", "tiny-images", "elastic-1", epochs=1, batch_size=8)))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(measured)
    for line, row in zip(lines[:-1], measured[:-1], strict=True):
        shown = re.fullmatch(r"step +([\d,]+) +(\w+) +([\d,.]+) (\S+)", line)
        assert shown is not None, line
        step, metric, value, unit = shown.groups()
        assert (int(step), metric, unit) == (row.step, row.metric, row.unit)
        if metric != "train_seconds":
            assert float(value.replace(",", "")) == pytest.approx(row.value, abs=1e-4)
    assert lines[-1] == f"finished at step 5, weights {measured[-1].note[:16]}"


def test_a_run_that_diverges_says_so_and_ends_with_1(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    huge = [*TRAIN, "--epochs", "9", "--batch-size", "8", "--lr", "1e30", "--clip", "none",
            "--out", str(tmp_path)]  # fmt: skip
    huge[huge.index("tiny")] = "lenet5"
    huge[huge.index("tiny-images")] = "digits"
    huge += ["--train-examples", "16"]
    for _ in range(2):  # the second time read from the folder
        assert main(huge) == 1
        last = capsys.readouterr().out.splitlines()[-1]
        assert re.fullmatch(r"diverged: the loss is \S+ at step \d+; lower the .*", last)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nonsense"], "unknown model 'nonsense'; known: .*lenet5.*pointnet"),
        (["--data", "nonsense"], "unknown data 'nonsense'; known: .*digits.*shapes"),
        (["--method", "nonsense"], "unknown method 'nonsense'; known: elastic-<k>.*full-zo"),
        (["--precision", "fp3"], "unknown precision 'fp3'; known: bf16, fp16, fp32, int8, int8\\*"),
        (["--method", "elastic-9"], "expected 0 to 3 BP layers, got 9"),
        (["--model", "pointnet"], "expected data of points for pointnet, got image"),
        (["--batch-size", "1000"], "at least one batch of 1000 examples, got 44"),
        (["--epochs", "-1"], "expected epochs of 0 or more, got -1"),
        (["--train-examples", "0"], "expected train_examples of 1 or more"),
        (["--checkpoint-steps", "0"], "expected checkpoint_steps of 1 or more, got 0"),
        (["--lr", "-1"], "expected lr to be a finite number of 0 or more, got -1.0"),
        (["--eps", "0"], "expected eps to be a finite number above 0"),
        (["--clip", "inf"], "expected clip to be finite"),
        (["--queries", "0"], "expected queries to be an integer of 1 or more"),
        (["--noise", "nonsense"], "expected noise to be one of gaussian"),
        (["--bp-gradient", "nonsense"], "expected bp_gradient to be one of mean"),
        (
            ["--schedule", "nonsense"],
            "unknown schedule 'nonsense'; known: exponential, cosine, constant",
        ),
        (
            ["--method", "full-bp", "--eps", "0.1", "--lr", "1", "--momentum", "0"],
            "expected hyperparameters that full-bp reads in fp32, "
            "--bp-lr, --momentum, --weight-decay, --schedule, got --lr, --eps; leave out",
        ),
        (
            ["--method", "full-zo", "--bp-lr", "1"],
            "full-zo reads in fp32, --lr.*, got --bp-lr; leave",
        ),
        (
            ["--precision", "int8", "--noise", "uniform", "--mu", "3"],
            "expected hyperparameters that elastic-1 reads in int8, .*--bp-gradient, .*, "
            "got --noise; leave out",
        ),
        (["--rate", "5"], "that elastic-1 reads in fp32, --lr.*, got --rate; leave"),
        (
            ["--precision", "int8*", "--method", "tail-only-1", "--rate", "5", "--p-zero", "0"],
            "reads in int8\\*, --fraction, --mu, --mu-drop, --growth, got --rate, --p-zero; leave",
        ),
        (
            ["--precision", "int8", "--method", "full-bp-checkpoint"],
            "expected a method with an integer form, elastic-<k>, .*, got full-bp-checkpoint; give",
        ),
        (
            ["--model", "plain", "--precision", "int8", "--queries", "0"],
            "expected queries to be an integer from 1 to 1024, got 0",
        ),
        (["--threads", "0"], "expected --threads of 1 or more, got 0"),
        (["--device", "nonsense"], "expected a device that works here, got 'nonsense'"),
        (["--device", "meta"], "expected a device that works here, got 'meta'"),
    ],
)
def test_unusable_arguments_end_with_2_and_the_reason(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main([*SHORT, *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.match(f"ezo: .*{message}", printed.err)


def test_training_in_integers_says_which_batch_norm_it_folds(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.warns(UserWarning) as told:
        assert main([*SHORT, "--precision", "int8"]) == 0
    words = " ".join(str(one.message) for one in told)
    assert "batch norm is folded" in words and "2 into 1" in words and "dropout of 0.3" in words
    assert "finished at step" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["train"], TRAIN[:-2], [*SHORT, "--nonsense"], [*SHORT, "--epochs", "x"],
     [*SHORT, "--clip", "x"]],
)  # fmt: skip
def test_unreadable_arguments_end_with_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: ezo" in capsys.readouterr().err


def test_no_command_shows_the_help_and_ends_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == "" and " ".join(printed.err.split()) == help_text(capsys)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"ezo {version('elasticzo')}\n"


def test_a_stop_by_the_user_says_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "train", stopped)
    assert main([*SHORT, "--out", str(tmp_path)]) == 130
    assert "the same command goes on from the last checkpoint" in capsys.readouterr().err
    assert main(SHORT) == 130
    assert capsys.readouterr().err == "ezo: stopped\n"


def test_out_keeps_rows_and_the_same_command_reads_them(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    command = [*SHORT, "--out", str(tmp_path / "a" / "run")]
    assert main(command) == 0
    first = capsys.readouterr().out
    assert main(command) == 0
    assert capsys.readouterr().out == first
    assert len(rows.read(tmp_path / "a" / "run" / "rows.jsonl")) == 8
    assert main([*command, "--seed", "1"]) == 2
    assert "give another --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("in_the_way", "make", "message"),
    [
        (
            "out",
            Path.touch,
            "expected a folder that can be written to, got .*run: .*; give another",
        ),
        ("out/run", Path.touch, "expected a folder that .*, got .*run: .*; give another --out"),
        ("out/run/rows.jsonl", Path.mkdir, ".*rows.jsonl: expected to read or write it, got: .*; "),
        (
            "out/run/checkpoint.safetensors",
            Path.mkdir,
            "expected a checkpoint that ezo wrote, got: .*; name one",
        ),
    ],
)
def test_an_out_that_cannot_be_written_ends_with_2_and_one_line(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    in_the_way: str,
    make: Callable[[Path], None],
    message: str,
) -> None:
    (tmp_path / in_the_way).parent.mkdir(parents=True, exist_ok=True)
    make(tmp_path / in_the_way)
    assert main([*SHORT, "--out", str(tmp_path / "out" / "run")]) == 2
    assert re.match(f"ezo: {message}.*\n$", capsys.readouterr().err)


def test_a_number_that_is_not_finite_is_printed_also_when_read_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # One step of an epoch, its loss finite; that of the weights after it is not.
    command = ["train", "--model", "lenet5", "--data", "digits", "--method", "full-bp",
               "--epochs", "1", "--batch-size", "16", "--train-examples", "16",
               "--bp-lr", "1e38", "--out", str(tmp_path)]  # fmt: skip
    assert main(command) == 1
    first = capsys.readouterr().out
    assert re.search("test_loss +nan", first)
    assert re.search("\ndiverged: the test loss is not finite at step 1; lower the .*\n$", first)
    assert main(command) == 1
    assert capsys.readouterr().out == first


def help_text(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    return " ".join(capsys.readouterr().out.split())


def test_help_explains_every_hyperparameter(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(capsys, "train")
    for field in fields(Hyper):
        option = "--" + field.name.replace("_", "-")
        assert f"{option} {field.name.upper()} " in text and field.metadata["help"] in text
    for unit in ("in units of a weight", "loss per unit of z", "perturbations a step"):
        assert unit in text


def test_help_explains_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    text = help_text(capsys, "train")
    for option, about in {
        "--model MODEL": "a model that `ezo list` shows",
        "--data DATA": "a data set that `ezo list` shows",
        "--method METHOD": "a method that `ezo list` shows",
        "--precision PRECISION": f"number format: {', '.join(catalogue.names('precision'))}",
        "--epochs EPOCHS": "passes over the training data (default: 20)",
        "--batch-size BATCH_SIZE": "examples a step (default: 32)",
        "--seed SEED": "of initial weights, order of batches, and noise (default: 0)",
        "--train-examples TRAIN_EXAMPLES": "use only so many training examples; by default all",
        "--held-out HELD_OUT": "training examples kept for validation",
        "--data-root DATA_ROOT": "folder of the data sets",
        "--out OUT": "folder for rows.jsonl and the checkpoint",
        "--device DEVICE": "cpu, cuda or another torch device (default: cpu)",
        "--threads THREADS": "CPU threads",
        "--checkpoint-steps CHECKPOINT_STEPS": "steps between checkpoints (default: 1000)",
    }.items():
        assert f"{option} {about}" in text
    assert "(default: None)" not in text
    assert "train" in help_text(capsys) and "list" in help_text(capsys)


def test_help_tells_an_option_of_several_precisions_for_each(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_text(capsys, "train")
    assert "hyperparameters of int8 and int8*:" in text
    own = {field.name: field for field in fields(Int8Hyper)}
    for field in fields(Hyper):
        if field.name in own:
            other = own.pop(field.name)
            option = "--" + field.name.replace("_", "-")
            assert (
                f"{option} {field.name.upper()} in bf16 and fp16 and fp32: "
                f"{field.metadata['help']} (untuned: {field.default}); "
                f"in int8 and int8*: {other.metadata['help']} (untuned: {other.default})"
            ) in text
    for field in own.values():
        option = "--" + field.name.replace("_", "-")
        about = f"{field.metadata['help']} (untuned: {field.default})"
        assert f"{option} {field.name.upper()} {about}" in text


def test_it_says_where_the_values_come_from(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--lr", "0.1"]) == 0
    assert capsys.readouterr().err == (
        "ezo: hyperparameters: the defaults of elastic-1: none were searched for tiny on "
        "tiny-images; given: --lr\n"
    )


def test_a_value_may_begin_with_a_minus(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--lr", "-1e-3"]) == 2
    assert "expected lr to be a finite number of 0 or more, got -0.001" in capsys.readouterr().err


def noted_runs(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Runs are noted in place of being trained."""
    seen: list[Run] = []

    def note(settled: Settled, **_: object) -> Iterator[Row]:
        seen.append(settled.run)
        return iter(())

    monkeypatch.setattr(train, "train", note)
    return seen


def test_defaults_are_those_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = noted_runs(monkeypatch)
    assert main(TRAIN) == 0
    assert seen == [Run("tiny", "tiny-images", "elastic-1").settled().run]


def test_options_reach_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {
        "lr": 0.003, "eps": 0.01, "clip": None, "queries": 2, "noise": "rademacher",
        "bp_gradient": "plus", "bp_lr": 0.02, "momentum": 0.5, "weight_decay": 0.1,
        "schedule": "constant", "lr_node": 0.002, "sigma": 0.05, "eta": 0.02,
    }  # fmt: skip
    assert set(chosen) == {field.name for field in fields(Hyper)}
    options = ["--method", "elastic-feedback-1"]  # which reads them all but queries
    del chosen["queries"]
    for name, value in chosen.items():
        options += ["--" + name.replace("_", "-"), "none" if value is None else str(value)]
    options += ["--seed", "4", "--train-examples", "32", "--held-out", "12", "--threads", "1"]
    options += ["--out", str(tmp_path)]
    assert main([*SHORT, *options]) == 0
    for row in rows.read(tmp_path / "rows.jsonl"):
        assert row.config == chosen | {
            "epochs": 1, "batch_size": 8, "train_examples": 32, "held_out": 12, "queries": 1,
        }  # fmt: skip
        assert row.seed == 4 and row.threads == 1


def test_integer_options_reach_the_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chosen = {
        "rate": 1000, "r_max": 7, "p_zero": 0.25, "magnitude": "sign", "mu": 2, "mu_drop": 1,
        "growth": 1, "zo_growth": 2, "bp_gradient": "minus", "largest_difference": 99,
        "queries": 3, "fraction": 8, "schedule": "exponential", "rate_node": 3000, "sigma": 2,
        "sparse": 1, "node_growth": 1, "bias_growth": 5,
    }  # fmt: skip
    assert set(chosen) == {field.name for field in fields(Int8Hyper)}
    options = ["--model", "plain", "--precision", "int8*", "--out", str(tmp_path)]
    options += ["--method", "elastic-node-1"]
    for name, value in chosen.items():
        options += ["--" + name.replace("_", "-"), str(value)]
    assert main([*SHORT, *options]) == 0
    for row in rows.read(tmp_path / "rows.jsonl"):
        rest = {"epochs": 1, "batch_size": 8, "train_examples": None, "held_out": 0}
        assert row.config == chosen | rest
        assert row.precision == "int8*"


def test_one_option_leaves_the_others_tuned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = noted_runs(monkeypatch)
    values = {"tiny/tiny-images/elastic-1": {"lr": 0.5, "momentum": 0.25}}
    monkeypatch.setattr("ezo.tuned._table", lambda: values)
    assert main([*TRAIN, "--momentum", "0"]) == 0
    assert seen[0].hyper == Hyper(lr=0.5, momentum=0.0)


def test_threads_are_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*SHORT, "--threads", "2"]) == 0
    assert torch.get_num_threads() == 2  # the fixture one_thread sets it back


def test_a_missing_data_set_ends_with_2_and_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], drop_in: object
) -> None:
    drop_in(  # type: ignore[operator]
        "data", "gone", '"""Gone."""\nNAMES = ("gone",)\n'
        "def load(name, root): raise FileNotFoundError(f'expected it in {root}')\n",
    )  # fmt: skip
    arguments = [*SHORT, "--data", "gone", "--data-root", str(tmp_path)]
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"ezo: expected it in {tmp_path}\n"


def test_a_fault_of_ours_ends_with_2_and_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1 says that a run diverged, or that nothing fits."""

    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("of ours")

    monkeypatch.setattr("ezo.plan.command.plan", broken)
    assert main(["plan", "--model", "lenet5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("RuntimeError: of ours\n")


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "ezo.cli", "train", "--model", "lenet5",
         "--data", "digits", "--method", "elastic", "--out", str(tmp_path / "x")],
        capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ezo: unknown method 'elastic'; known: ")
    assert not (tmp_path / "x").exists()


def test_a_run_that_other_code_began_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*SHORT, "--out", str(tmp_path)]
    made = {**rows.provenance(), "commit": "a" * 40}
    monkeypatch.setattr(rows, "provenance", lambda: made)
    for commit, told in (("a" * 40, False), ("b" * 40, True), ("", False)):
        monkeypatch.setattr(rows, "_commit", lambda commit=commit: (commit, False))
        assert main(command) == main(command) == 0
        said = "is of aaaaaaaaaa, other code than this; it is kept" in capsys.readouterr().err
        assert said == told
