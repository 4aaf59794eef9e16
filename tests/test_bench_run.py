"""The grid of cells, what a run keeps of them, and the time of a step by phase."""

import dataclasses
import importlib
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import __main__ as command
from bench import accuracy, conformance, grid, isolate, memory, peers, smoke
from bench import time as step_time
from bench.grid import Grid, Kept
from bench.workload import Workload
from ezo import rows
from ezo.lock import alone_in
from ezo.phases import PHASES, phase
from ezo.rows import Row


def test_every_benchmark_has_what_the_driver_calls() -> None:
    names = command.benchmarks()
    assert {"accuracy", "compare", "conformance", "memory", "time"} <= set(names)
    for name in names:
        module = importlib.import_module(f"bench.{name}")
        assert (module.__doc__ or "").splitlines()[0]
        cells = Grid(["lenet5"]).cells(module)
        assert cells and len({cell.name for cell in cells}) == len(cells)
        for cell in cells:
            assert 0 < grid.predicted_seconds(module, cell) < 600


def test_the_grid_is_the_product() -> None:
    whole = Grid(
        ["lenet5", "pointnet"],
        ["full-zo", "full-bp"],
        batch_size=(32, 256),
        threads=(1, 2),
        device=("cpu", "cuda"),
    )
    cells = whole.cells(memory)
    assert len(cells) == len({cell.name for cell in cells}) == 32
    assert {(c.model, c.method, c.batch_size, c.threads, c.device) for c in cells} == {
        (m, z, b, t, d)
        for m in ("lenet5", "pointnet")
        for z in ("full-zo", "full-bp")
        for b in (32, 256)
        for t in (1, 2)
        for d in ("cpu", "cuda")
    }


def test_a_star_is_every_split_point() -> None:
    assert list(grid.expand("lenet5", ["full-zo", "elastic-*"])) == [
        "full-zo",
        "elastic-1",
        "elastic-2",
        "elastic-3",
        "elastic-4",
    ]


def test_names_say_what_is_not_the_default() -> None:
    usual = Workload("lenet5", "full-zo")
    assert usual.name == "lenet5-full-zo-batch32"
    other = dataclasses.replace(usual, precision="int8", threads=2, device="cuda:0")
    assert other.name == "lenet5-full-zo-batch32-int8-threads2-cuda0"


def test_images_have_the_shape_that_the_model_says() -> None:
    row = Workload("mobilenet_v2", "full-zo", 2).row("peak_tensor_bytes", 1, "B")
    assert row.config == {"batch_size": 2, "image": "3x96x96"}
    assert Workload("lenet5", "full-zo", 2).example == (1, 28, 28)
    _, step = Workload("mobilenet_v2", "inference", 2).prepare()
    assert 0 < float(step()) < 10


def test_what_a_benchmark_does_not_vary_is_refused() -> None:
    with pytest.raises(ValueError, match="expected no threads for bench.conformance, .* method"):
        Grid(["lenet5"], threads=(2,)).cells(conformance)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--batch-size 0 32", "expected batch size of 1 or more, got 0"),
        ("--threads -1", "expected threads of 1 or more, got -1"),
        ("--methods elastic", "unknown method 'elastic'; known: elastic-<k>, .*torchzero-mezo"),
        ("--methods elastik-*", "unknown method 'elastik-1'; known: elastic-<k>"),
        ("--precision fp3", "unknown precision 'fp3'; known: bf16, fp16, fp32"),
        ("--device gpu", "expected a device such as cpu or cuda, got 'gpu'"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_measured(
    words: str, told: str, measured: list[str], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    for last in (["--list"], ["--out", str(tmp_path / "out")]):
        assert run(monkeypatch, "memory", "--models", "lenet5", *words.split(), *last) == 2
        assert re.search(told, capsys.readouterr().err)
    assert not measured and not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
def test_a_device_that_is_not_here_can_be_listed_but_not_measured(
    measured: list[str], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    words = ("memory", "--models", "lenet5", "--device", "cuda")
    assert run(monkeypatch, *words, "--list") == 0
    assert run(monkeypatch, *words, "--out", str(tmp_path)) == 2
    assert "expected a device that works here, got 'cuda': " in capsys.readouterr().err
    assert not measured


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(
    measured: list[str], monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    assert run(monkeypatch, "memory", "--models", "lenet5", "--out", out) == 2
    assert "expected a folder that can be written to, got" in capsys.readouterr().err
    assert not measured


def test_data_sets_are_the_grids_where_a_benchmark_has_them() -> None:
    chosen = Grid(["lenet5"], ["full-zo"], data=("digits", "mnist")).cells(accuracy)
    assert [case.data for case in chosen] == ["digits", "mnist"]
    assert Grid(["pointnet"], ["full-zo"]).cells(accuracy)[0].data == "shapes-256"
    with pytest.raises(ValueError, match="expected no data for bench.memory"):
        Grid(["lenet5"], ["full-zo"], data=("digits",)).cells(memory)


def test_accuracy_is_the_rows_of_training() -> None:
    (case,) = accuracy.cases("lenet5", "full-bp", 128)
    found = {row.metric: row.value for row in accuracy.measure(case, epochs=1)}
    assert found["test_accuracy"] > 20 and found["finished"] == 11


def test_a_precision_that_cannot_be_measured_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown precision 'int3'.*known: bf16, fp16, fp32"):
        Workload("lenet5", "full-zo", precision="int3").prepare()


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bench", "run", *words])
    return command.main()


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Cells that were measured; elastic-9 fails, as it does on LeNet-5."""
    found: list[str] = []

    def measure(benchmark: str, case: Any) -> list[Row]:
        found.append(case.name)
        if case.method == "elastic-9":
            raise ValueError("expected 0 to 5 BP layers")
        return [case.row("peak_tensor_bytes", len(found), "B")]

    monkeypatch.setattr(isolate, "measure_alone", measure)
    return found


def test_a_run_goes_on_where_it_was(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    words = ("memory", "--models", "lenet5", "--out", str(tmp_path), "--methods")
    assert run(monkeypatch, *words, "full-zo") == 0
    assert run(monkeypatch, *words, "full-zo", "full-bp") == 0
    assert measured == ["lenet5-full-zo-batch32", "lenet5-full-bp-batch32"]
    kept = rows.read(tmp_path / "rows.jsonl")
    assert [(r.case, r.metric) for r in kept] == [
        (case, metric) for case in measured for metric in ("peak_tensor_bytes", "cell_seconds")
    ]
    monkeypatch.setattr(grid, "source_digest", lambda: "another")  # the code has changed
    assert run(monkeypatch, *words, "full-zo") == 0
    assert measured[2:] == ["lenet5-full-zo-batch32"]
    assert len(rows.read(tmp_path / "rows.jsonl")) == 4


def test_a_failure_is_a_row_and_the_others_go_on(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    words = ["memory", "--models", "lenet5", "--out", str(tmp_path)]
    words += ["--jobs", "1", "--methods", "elastic-9", "full-bp"]
    assert run(monkeypatch, *words) == 1
    assert len(measured) == 2
    failed = rows.read(tmp_path / "rows.jsonl")[0]
    assert (failed.metric, failed.value, failed.method) == ("failed", None, "elastic-9")
    assert failed.note == "ValueError: expected 0 to 5 BP layers"
    capsys.readouterr()
    assert run(monkeypatch, *words) == 1 and len(measured) == 2
    assert "all 2 cells were measured before; their rows are in " in capsys.readouterr().out
    assert run(monkeypatch, *words, "--retry-failed") == 1 and len(measured) == 3


def test_cells_run_side_by_side_where_none_disturbs_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = threading.Barrier(2, timeout=10)

    def measure(benchmark: str, case: Any) -> list[Row]:
        both.wait()  # broken if one waits for the other
        return [case.row("peak_tensor_bytes", 1, "B")]

    monkeypatch.setattr(isolate, "measure_alone", measure)
    words = ["--models", "lenet5", "--methods", "full-zo", "full-bp", "--out", str(tmp_path)]
    assert run(monkeypatch, "memory", *words, "--jobs", "2") == 0
    assert {row.value for row in rows.read(tmp_path / "rows.jsonl")} >= {1}
    assert run(monkeypatch, "time", *words, "--jobs", "2") == 2
    assert "would disturb its times" in capsys.readouterr().err


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_exact_bytes_are_the_same_on_one_thread_and_two(precision: str) -> None:
    one, two = (
        {
            row.metric: row.value
            for row in isolate.measure_alone(
                "memory", Workload("lenet5", "elastic-2", 32, precision=precision, threads=threads)
            )
            if row.metric == "peak_tensor_bytes" or row.metric.startswith("bytes_")
        }
        for threads in (1, 2)
    )
    assert one == two and len(one) > 5 and one["peak_tensor_bytes"] > 100_000


def test_smoke_has_every_benchmark_and_peer_and_tells_what_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cells = list(smoke.cells(command.benchmarks()))
    assert {name for name, _ in cells} == set(command.benchmarks())
    assert set(peers.names()) <= {getattr(case, "method", "") for _, case in cells}
    for fault in (ValueError("broken"), None):

        def measure(case: Any, epochs: int, fault: Exception | None = fault) -> list[Row]:
            if fault is not None:
                raise fault
            return [Row(case.name, "test_accuracy", None, "%", note=f"{epochs} epochs")]

        monkeypatch.setattr(accuracy, "measure", measure)
        told, failed = smoke.measure_short("accuracy", accuracy.cases("lenet5", "full-zo", 2)[0])
        assert failed == (fault is not None) and ("broken" in told) == failed
        assert failed or told.endswith("1 epochs")


def test_list_shows_cells_and_the_time_left(
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["memory", "--models", "lenet5", "--out", str(tmp_path), "--methods"]
    run(monkeypatch, *words, "full-zo")
    capsys.readouterr()
    assert run(monkeypatch, *words, "full-zo", "full-bp", "--list") == 0
    first, second, last = capsys.readouterr().out.splitlines()
    assert first.split() == ["lenet5-full-zo-batch32", "measured"]
    assert second.split()[0] == "lenet5-full-bp-batch32" and second.endswith(" s")
    assert last.startswith("2 cells, about 0.")
    assert len(measured) == 1


def test_the_source_digest_sees_one_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("ezo", "bench"):
        (tmp_path / folder).mkdir()
    monkeypatch.setattr(grid, "__file__", str(tmp_path / "bench" / "grid.py"))
    found = set()
    for text in ("a", "b"):
        (tmp_path / "ezo" / "x.cpp").write_text(text)
        found.add(grid.source_digest())
    assert len(found) == 2


def test_a_process_that_dies_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(benchmark: str, case: Any) -> list[Row]:
        raise isolate.BrokenProcessPool("gone")

    monkeypatch.setattr(isolate, "measure_alone", die)
    failed, _ = isolate.measure_or_say_why("memory", Workload("lenet5", "full-zo"))
    assert failed.metric == "failed" and "died" in failed.note


def test_rows_of_a_cell_replace_its_earlier_ones(tmp_path: Path) -> None:
    case = Workload("lenet5", "full-zo")
    kept = Kept(tmp_path, "memory")
    for value in (1, 2):
        kept.put(case, [case.row("peak_tensor_bytes", value, "B")])
    Kept(tmp_path, "time").put(case, [case.row("step_seconds", 3, "s")])
    assert [r.value for r in rows.read(tmp_path / "rows.jsonl")] == [2, 3]
    assert [r.value for r in Kept(tmp_path, "memory").of(case)] == [2]


def test_two_runs_at_once_lose_no_cell(
    measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    words = ("memory", "--models", "lenet5", "--methods", "full-zo", "--out", str(tmp_path))
    with alone_in(tmp_path):
        assert run(monkeypatch, *words) == 2
        assert "another process works here" in capsys.readouterr().err
        assert run(monkeypatch, *words, "--list") == 0
    assert not measured and not (tmp_path / "rows.jsonl").exists()
    assert run(monkeypatch, *words) == 0 and len(measured) == 1


# Time by phase


def emitting(seconds: dict[str, float]) -> Any:
    """A step that is so long in each phase."""

    def step() -> float:
        for name, long in seconds.items():
            with phase(name):
                time.sleep(long)
        time.sleep(0.005)
        return 1.0

    return step


def test_time_spent_in_a_phase_is_counted_there() -> None:
    found = step_time.phases(emitting({"perturb": 0.02, "forward": 0.01}), 2, "cpu")
    assert set(found) == {*PHASES, "other"}
    assert min(found["perturb"]) >= 0.02 and min(found["forward"]) >= 0.01
    assert found["backward"] == found["update"] == [0.0, 0.0]
    assert min(found["other"]) >= 0.005


@pytest.mark.parametrize("emitted", [dict.fromkeys(PHASES, 0.001), {}])
def test_time_is_rows_by_phase_and_ratios(
    emitted: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workload, "prepare", lambda self: (None, emitting(emitted)))
    rows = step_time.measure(Workload("lenet5", "elastic-1", 4), **step_time.SMOKE)
    found = {row.metric: row for row in rows}
    by_phase = {f"{name}_seconds" for name in (*(PHASES if emitted else ()), "other")}
    ratios = {"step_over_inference", "step_over_full_bp"}
    assert set(found) == {"step_seconds", *ratios, *by_phase}
    if emitted:
        assert all(found[name].value > 0 and "quartiles" in found[name].note for name in by_phase)
    else:
        assert found["other_seconds"].value is None
        assert found["other_seconds"].note == "the step emits no phases"


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_measuring_phases_changes_no_bit(precision: str) -> None:
    weights = []
    for measured in (False, True):
        model, step = Workload("lenet5", "elastic-2", 4, precision=precision).prepare()
        if measured:
            step_time.phases(step, 3, "cpu")
        else:
            for _ in range(3):
                step()
        weights.append(torch.cat([w.flatten() for w in model.state_dict().values()]))
    assert torch.equal(*weights)


# Peers


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own compiler
@pytest.mark.parametrize("name", peers.names())
def test_a_peer_does_a_step_or_is_not_installed(name: str) -> None:
    workload = Workload("lenet5", name, 4)
    try:
        model, step = workload.prepare()
    except ModuleNotFoundError:
        (row,) = step_time.measure(workload)
        assert row.value is None and row.note.startswith("not installed: ")
        return
    before = [p.detach().clone() for p in model.parameters()]
    assert all(0 < float(step()) < 10 for _ in range(2))
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize("name", [n for n in peers.names() if hasattr(peers.find(n), "make_step")])
def test_a_zo_peer_keeps_no_activations(name: str) -> None:
    seen, model = [], torch.nn.Linear(3, 1)

    def closure(backward: bool = False) -> torch.Tensor:
        loss = model(torch.ones(2, 3)).square().mean()
        seen.append(loss.requires_grad)
        return loss

    try:
        peers.find(name).step(name, model, closure)()
    except ModuleNotFoundError:
        pytest.skip(f"{name} is not installed")
    assert 2 <= len(seen) <= 3 and not any(seen)


def test_fused_into_backward_is_the_same_sgd() -> None:
    losses = []
    for name in ("torch-sgd", "torch-sgd-fused-backward"):
        model, step = Workload("lenet5", name, 4).prepare()
        losses.append([float(step()) for _ in range(3)])
        kept = [p.grad for p in model.parameters()]
        assert all(g is None for g in kept) == (name != "torch-sgd")
    assert losses[0] == losses[1]


def test_conformance_is_a_row_for_each_check() -> None:
    found = conformance.measure(conformance.Subject("full-zo"))
    assert len(found) == 9
    assert all(row.note.startswith("passed") for row in found)
