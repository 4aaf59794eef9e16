"""Ours beside the peers: the table, who is first, and cells that can't be measured."""

import dataclasses
import os
import types
from pathlib import Path

import pytest

import bench
from bench import compare, isolate
from bench.workload import Workload
from ezo import catalogue
from ezo.rows import Row


def cell(method: str, step: float, peak: float | None, beside: float | None = None) -> list[Row]:
    case = Workload("lenet5", method)
    found = [case.row(compare.STEP, step, "1"), case.row(compare.PEAK, peak, "1", "no count")]
    if beside is not None:
        row = case.row(compare.BESIDE, beside, "1")
        about = {**row.config, "low": beside - 0.1, "high": beside + 0.1}
        found.append(dataclasses.replace(row, config=about))
    return [*found, case.row("cell_seconds", 1.0, "s")]


@pytest.mark.parametrize(
    ("beside", "peak", "time_verdict", "bytes_verdict"),
    [
        (1.5, 1.2, "full-zo (ezo's). torchzero", "full-zo (ezo's). torchzero"),
        (1.05, 1.0, "full-zo (ezo's), level with torchzero", "level with torchzero"),
        (0.8, 0.9, "torchzero-mezo before ezo's full-zo.", "mezo before ezo's full-zo."),
        (0.8, None, "before ezo's full-zo", "nothing was measured beside full-zo"),
    ],
)
def test_the_table_says_who_is_first(
    beside: float, peak: float | None, time_verdict: str, bytes_verdict: str
) -> None:
    rows = [*cell("torchzero-mezo", 2.0, peak, beside), *cell("full-zo", 1.1, 1.0)]
    text = compare.table(rows)
    by_time, by_bytes = [line for line in text.splitlines() if line.startswith("First in")]
    assert time_verdict in by_time and bytes_verdict in by_bytes
    assert text.count("###") == 1 and text.index("| full-zo |") < text.index("| torchzero-mezo |")
    assert ("no count" in text) == (peak is None)


def test_a_method_of_one_s_own_is_told_of_beside_the_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = types.ModuleType("their_package.sign_zo")
    find = catalogue.find
    monkeypatch.setattr(compare, "group", lambda method: "ZO")
    monkeypatch.setattr(
        catalogue, "find", lambda kind, name: theirs if name == "sign-zo" else find(kind, name)
    )
    text = compare.table([*cell("sign-zo", 1.1, 1.0, 1.01), *cell("full-zo", 1.1, 1.0)])
    by_time, by_bytes = [line for line in text.splitlines() if line.startswith("First in")]
    assert "| sign-zo | their_package |" in text and "| full-zo | ezo |" in text
    assert "full-zo (ezo's), level with sign-zo." in by_time
    assert "full-zo (ezo's), level with sign-zo." in by_bytes


def test_a_cell_is_ratios_to_inference_in_one_process() -> None:
    rows = compare.measure(Workload("lenet5", "full-zo", 4), **compare.SMOKE)
    found = {row.metric: row for row in rows}
    assert 1 <= found[compare.PEAK].value <= 1.02
    assert 0.1 < found[compare.STEP].value < 100  # a busy machine is no failure
    assert found[compare.STEP].config["low"] <= found[compare.STEP].config["high"]


def test_a_peer_that_fails_is_a_row_and_ours_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Workload) -> None:
        raise RuntimeError("no kernel\nand a long story")

    monkeypatch.setattr(Workload, "prepare", fail)
    (row,) = compare.measure(Workload("lenet5", "torch-adam"))
    assert row.value is None and row.note == "failed: RuntimeError: no kernel"
    with pytest.raises(RuntimeError):
        compare.measure(Workload("lenet5", "full-zo"))


def test_a_cell_beyond_its_time_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import time\nLIMIT_SECONDS = 0.2\ndef measure(case): time.sleep(60)\n"
    (tmp_path / "endless.py").write_text(source)
    (tmp_path / "sitecustomize.py").write_text(
        f"import bench\nbench.__path__.append({str(tmp_path)!r})\n"
    )
    monkeypatch.setattr(bench, "__path__", [*bench.__path__, str(tmp_path)])
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{Path(bench.__file__).parent.parent}")
    failed, took = isolate.measure_or_say_why("endless", Workload("lenet5", "full-zo"))
    assert (failed.metric, failed.note) == ("failed", "stopped after 0.2 s") and took.value < 50
