"""States that were damaged or are another's are refused before anything is trained by them."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import fuzz_states
import pytest
import torch
from fuzz_states import MAKERS, RUNS, begun, taken

from ezo import checkpoint, cli, files, rows, train
from ezo.data import modelnet40
from ezo.export import as_safetensors
from ezo.export import state as device
from ezo.lock import alone_in
from ezo.rows import Row
from ezo.run import Run
from reproduce import __main__ as reproduce_main
from reproduce import search

INTEGERS = 4  # of the makers, with a fraction 5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("step", value) for value in (float("nan"), 1.5, 10**400, 99, True, -1, "1")),
        *(("seconds", value) for value in (float("inf"), float("nan"), 10**400, None)),
        *(("loss_sum", value) for value in (float("nan"), float("-inf"), 10**400)),
        *(("rows_bytes", value) for value in (1.5, 2**63, float("nan"))),
        *(("forward_passes", value) for value in (0.5, 2**64)),
        *(("ended", value) for value in (0, 1.0, None)),
    ],
    ids=lambda value: f"{value!r:.12}",
)
def test_a_counter_that_is_none_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    text, state = begun(0)
    (tmp_path / "rows.jsonl").write_bytes(text)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(state)
    checkpoint.save(path, {**checkpoint.load(path), name: value})
    with pytest.raises(ValueError, match=r"expected the state of .*, got another .*; remove"):
        next(train.train(RUNS[0], out=tmp_path))


def loaded(n: int, change: Any) -> None:
    """A maker's state, changed, into an optimiser that was made alike; it must not have stepped."""
    model, optimizer, _ = MAKERS[n]()
    before = optimizer.state_dict()["ezo"]["steps"]
    state = {**taken(n)["optimizer"], "ezo": dict(taken(n)["optimizer"]["ezo"])}
    state["param_groups"] = [dict(group) for group in state["param_groups"]]
    state["state"] = {key: dict(kept) for key, kept in state["state"].items()}
    change(state)
    with pytest.raises(ValueError, match="expected .*got"):
        optimizer.load_state_dict(state)
    assert optimizer.state_dict()["ezo"]["steps"] == before == 0


@pytest.mark.parametrize("n", range(len(MAKERS)))
@pytest.mark.parametrize(
    "own", [{"seed": 2**64}, {"seed": -1}, {"seed": 0.5}, {"steps": 2**32}, {"steps": None}]
)
def test_a_place_that_the_noise_has_not_is_refused(n: int, own: dict[str, Any]) -> None:
    loaded(n, lambda state: state["ezo"].update(own))


@pytest.mark.parametrize("group", [0, -1])
@pytest.mark.parametrize("value", [float("nan"), 10**400, "1e-3", None], ids="abcd")
def test_a_rate_that_is_no_number_is_refused_in_each_part(group: int, value: Any) -> None:
    for n in range(INTEGERS):
        loaded(n, lambda state: state["param_groups"][group].update(lr=value))
    for name in ("rate", "mu"):
        loaded(INTEGERS, lambda state: state["param_groups"][group].update({name: value}))  # noqa: B023
    loaded(1, lambda state: state["param_groups"][group].pop("lr"))


def test_values_of_nodes_and_of_feedback_are_refused_too() -> None:
    loaded(1, lambda state: state["param_groups"][1].update(sigma=0.0))
    with_feedback = taken(2)["optimizer"]["ezo"]["feedback"]
    assert with_feedback
    number = next(iter(with_feedback))
    for wrong in ({number: torch.ones(2)}, {"99": torch.ones(8, 3)}, {number: torch.ones(7, 3)}):
        loaded(2, lambda state: state["ezo"].update(feedback=wrong))  # noqa: B023


@pytest.mark.parametrize(
    "fraction", [torch.zeros(1, dtype=torch.uint8), torch.zeros(8, 4), None, 3]
)
def test_a_fraction_that_does_not_fit_its_weight_is_refused(fraction: Any) -> None:
    loaded(INTEGERS + 1, lambda state: state["state"][0].update(fraction=fraction))


@pytest.mark.parametrize("exponent", [10**6, -(10**6), 2**31 - 1])
def test_an_exponent_that_no_weight_has_is_refused(exponent: int) -> None:
    model, _, _ = MAKERS[INTEGERS]()
    state = dict(model.state_dict())
    key = next(key for key in state if key.endswith("weight_exponent"))
    for wrong in (torch.tensor(exponent), torch.tensor([1, 2]), torch.tensor(0.5), 3):
        with pytest.raises(ValueError, match="expected .*weight_exponent to hold 1 int.*; take"):
            model.load_state_dict({**state, key: wrong})


def test_a_momentum_of_another_shape_is_refused() -> None:
    model, optimizer, _ = MAKERS[0]()
    state = taken(0)
    kept = {**state["optimizer"]["ezo"]["bp"]["state"], 0: {"momentum_buffer": torch.ones(2)}}
    bp = {**state["optimizer"]["ezo"]["bp"], "state": kept}
    own = {**state["optimizer"], "ezo": {**state["optimizer"]["ezo"], "bp": bp}}
    with pytest.raises(TypeError, match="momentum_buffer"):
        checkpoint.restore(model, optimizer, {**state, "optimizer": own})


# Numbers that no machine word holds


@pytest.mark.parametrize("name", ["seed", "step", "threads", "value"])
def test_a_number_beyond_64_bits_is_refused_in_a_row(name: str, tmp_path: Path) -> None:
    row = json.loads(Row("a", "m", 1, "1").json())
    path = tmp_path / "rows.jsonl"
    for change in ({name: 2**63}, {name: -(10**400)}, {"config": {name: 2**64}}):
        path.write_text(json.dumps({**row, **change}) + "\n")
        with pytest.raises(ValueError, match=r"line 1: expected a row .*64 bits.*; remove"):
            rows.read(path)
    path.write_text(json.dumps({**row, name: 2**63 - 1}) + "\n")
    assert getattr(rows.read(path)[0], name) == 2**63 - 1


@pytest.mark.parametrize("name", ["epochs", "batch_size", "seed", "held_out"])
def test_a_number_beyond_64_bits_is_refused_in_a_run(name: str) -> None:
    with pytest.raises(ValueError, match=rf"expected {name} below 2\*\*63, got 1000.*; give"):
        Run("lenet5", "digits", "full-zo", **{name: 10**400}).settled()


@pytest.mark.parametrize(
    "words",
    [
        ["reproduce", "--preset", "smoke", "--out", "out", "--jobs"],
        ["reproduce.search", "--out", "out", "--jobs"],
        ["bench", "run", "memory", "--out", "out", "--jobs"],
    ],
)
def test_more_jobs_than_any_machine_has_are_refused(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    from bench import __main__ as bench_main

    monkeypatch.chdir(tmp_path)
    mains = {"reproduce": reproduce_main, "reproduce.search": search, "bench": bench_main}
    for jobs in ("1025", "9" * 30, "0"):
        monkeypatch.setattr(sys, "argv", [*words, jobs])
        assert mains[words[0]].main() == 2
        assert f"expected --jobs from 1 to 1024, got {jobs}; give" in capsys.readouterr().err


# What is exported


def test_a_run_that_is_exported_is_checked_as_one_that_goes_on(tmp_path: Path, capsys: Any) -> None:
    for change, message in (
        (lambda s: {**s, "settings": {**s["settings"], "epochs": "1"}}, "settings of a run"),
        (lambda s: {**s, "settings": {**s["settings"], "surprise": 1}}, "settings of a run"),
        (lambda s: {**s, "settings": 3}, "the state of a run"),
        (lambda s: {**s, "optimizer": {}}, "expected the state of lenet5"),
        (lambda s: {**s, "model": {"a": torch.ones(1)}}, "expected the state of lenet5"),
    ):
        path = tmp_path / "checkpoint.safetensors"
        path.write_bytes(begun(1)[1])
        checkpoint.save(path, change(checkpoint.load(path)))
        assert cli.main(["export", "--from", str(tmp_path)]) == 2
        told = capsys.readouterr().err
        assert message in told and "got another or a damaged one" in told and "; remove" in told


def test_weights_that_are_none_are_refused_by_export(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "w").write_bytes(b"no tensors")
    words = ["export", "--data", "digits", "--weights"]
    assert cli.main([*words, str(tmp_path / "w")]) == 2
    assert "expected a safetensors file, got a damaged" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "none")]) == 2
    assert "expected a safetensors file, got: No such" in capsys.readouterr().err


def test_an_exported_network_that_is_damaged_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "n", fuzz_states.written()
    path.write_bytes(data)
    assert as_safetensors.read(path)[0]["format"] == 1
    for damaged in (data[:-1], data[:20], b"", data.replace(b'format\\": 1', b'format\\": 2')):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected an exported network, got .*; export it"):
            as_safetensors.read(path)
    with pytest.raises(ValueError, match="expected a state that a device saved.*; give"):
        device.load(b"", *fuzz_states.exported())


# What a kill leaves, and two at once


def test_what_a_kill_left_half_written_is_removed_at_the_next_start(tmp_path: Path) -> None:
    half = "import os, sys; from ezo import files; from pathlib import Path\n"
    half += "with files.replaced(Path(sys.argv[1])) as beside:\n"
    half += "    beside.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", half, str(tmp_path / "report.html")])
    (tmp_path / f"checkpoint.safetensors{files.TEMPORARY}").mkdir()
    (tmp_path / "mine.tmp").write_text("stays")
    assert len(list(tmp_path.iterdir())) == 3
    with alone_in(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} <= {"mine.tmp", "lock"}
        assert (tmp_path / "mine.tmp").read_text() == "stays"


def test_an_archive_that_a_kill_left_is_removed_after_a_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    old, new = tmp_path / ".unpack-old", tmp_path / ".unpack-new"
    old.mkdir(), new.mkdir()
    os.utime(old, (1, 1))
    monkeypatch.setattr(modelnet40, "URL", (tmp_path / "none.zip").as_uri())
    with pytest.raises(FileNotFoundError, match="could not be downloaded"):
        modelnet40.load("modelnet40", tmp_path)
    assert not old.exists() and new.exists()


def test_two_searches_at_once_keep_each_others_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "TUNED", tmp_path / "tuned.json")
    each = [
        threading.Thread(target=search._write, args=({f"a/{n}": {"lr": n}},)) for n in range(20)
    ]
    for one in each:
        one.start()
    for one in each:
        one.join()
    table = json.loads((tmp_path / "tuned.json").read_text())
    assert table == {f"a/{n}": {"lr": n} for n in range(20)}
