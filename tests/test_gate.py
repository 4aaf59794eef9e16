"""The gate finds what was planted and is quiet where nothing was."""

import argparse
import dataclasses
import json
import math
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ezo
from bench import __main__ as program
from bench import gate, probe
from bench.gate import judging, measuring
from bench.gate.judging import NOT_MEASURED, OK, REGRESSED, Sample
from bench.gate.report import Report
from bench.gate.sides import Side
from bench.workload import Workload
from ezo import perturb
from ezo.kernels import compiled

CELL = Workload("lenet5", "full-zo", 4)
BACKEND = """
import pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "ezo-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        for path in pathlib.Path("ezo").rglob("*"):
            if path.suffix in (".py", ".json", ".so", ".pyd"):
                wheel.write(path)
        for file, text in {
            "METADATA": "Metadata-Version: 2.1\\nName: ezo\\nVersion: 0.1.0\\n",
            "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"ezo-0.1.0.dist-info/{file}", text)
    return name
"""
PYPROJECT = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
LEAK_AND_SLOWDOWN = """
import time

_leaked = []
_plain_step = ElasticZO._step


def _faulty_step(self, closure):
    if not _leaked:
        _leaked.append(torch.zeros(64 * 1024, dtype=torch.uint8))
    started = time.process_time()
    loss = _plain_step(self, closure)
    until = 2 * time.process_time() - started
    while time.process_time() < until:
        pass
    return loss


ElasticZO._step = _faulty_step
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of `ezo` and `bench`, built by pip without a compiler or a network, one commit old."""
    root = tmp_path / "repository"
    for source in (Path(ezo.__file__).parent, Path(probe.__file__).parent):
        ignored = shutil.ignore_patterns("__pycache__", "csrc")
        shutil.copytree(source, root / source.name, ignore=ignored)
    if compiled._kernels is not None:
        shutil.copy2(compiled._kernels.__file__, root / "ezo")
    (root / "backend.py").write_text(BACKEND)
    (root / "pyproject.toml").write_text(PYPROJECT)
    (root / ".gitignore").write_text("__pycache__/\n")
    for command in (
        "init -q",
        "add -A",
        "-c user.name=a -c user.email=a@example.org commit -qm base",
    ):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    monkeypatch.chdir(root)
    monkeypatch.setattr(measuring, "VISIT_SECONDS", 0.02)
    return root


def run_gate(*options: str, cells: tuple[Workload, ...] = (CELL,)) -> tuple[int, dict]:
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser)
    found = Path("..", "found.json")
    usual = ["--base", "HEAD", "--pairs", "2", "--clock", "cpu", "--json", str(found)]
    given = parser.parse_args([*usual, *options])
    status = gate.run(given, cells)
    return status, json.loads(found.read_text())


def by_metric(found: dict) -> dict[str, dict]:
    return {finding["metric"]: finding for finding in found["findings"]}


def test_a_tree_against_itself_is_quiet(repository: Path) -> None:
    status, found = run_gate("--most-pairs", "6")
    metrics = by_metric(found)
    assert set(metrics) == {"peak_tensor_bytes", "digest", "step_seconds"}
    assert metrics["peak_tensor_bytes"]["base"] == metrics["peak_tensor_bytes"]["head"]
    assert metrics["digest"]["verdict"] == "same"
    # A machine too busy to tell is no regression.
    assert status == OK or metrics["step_seconds"]["verdict"] == "not measured"
    assert {side["kernels"] for side in found["sides"].values()} == {perturb.kernels()}
    assert not found["sides"]["head"]["dirty"]
    assert {row["metric"] for row in found["rows"]} == {
        "peak_tensor_bytes",
        "step_seconds",
        "step_head_over_base",
    }


def test_a_leak_of_64_kib_and_a_step_of_twice_the_time_are_found(
    repository: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (repository / "ezo" / "optim.py").open("a") as file:
        file.write(LEAK_AND_SLOWDOWN)
    status, found = run_gate()
    metrics = by_metric(found)
    assert status == found["status"] == REGRESSED
    leak = metrics["peak_tensor_bytes"]
    assert leak["verdict"] == "regressed" and leak["head"] - leak["base"] == 64 * 1024
    assert metrics["digest"]["verdict"] == "same"
    time = metrics["step_seconds"]
    assert time["verdict"] == "regressed" and "the rerun agrees" in time["note"]
    assert 1.5 < time["ratio"] < 3
    assert found["sides"]["head"]["dirty"]
    shown = capsys.readouterr().out
    assert "regressed" in shown.splitlines()[0] and "+65,536 B" in shown


def test_other_weights_and_a_missing_cell_are_found(repository: Path) -> None:
    spsa = repository / "ezo" / "spsa.py"
    spsa.write_text(spsa.read_text().replace("/ (2 * eps)\n", "/ (2.001 * eps)\n"))
    (repository / "ezo" / "methods" / "full_bp.py").unlink()
    cells = (CELL, Workload("lenet5", "full-bp", 4))
    status, found = run_gate("--only", "exact", cells=cells)
    verdicts = {(f["cell"], f["metric"]): f["verdict"] for f in found["findings"]}
    assert status == REGRESSED
    assert verdicts[CELL.name, "digest"] == "changed"
    assert verdicts[cells[1].name, "cell"] == "missing"
    assert "unknown method 'full-bp'" in found["findings"][-1]["note"]

    status, _ = run_gate("--only", "exact", "--allow-digest-change")
    assert status == OK


def test_what_cannot_be_built_or_found_is_not_measured(repository: Path) -> None:
    status, found = run_gate("--base", "no-such-commit")
    assert status == NOT_MEASURED and "'no-such-commit'; fetch it" in found["error"]
    (repository / "backend.py").write_text("raise RuntimeError('no compiler today')")
    status, found = run_gate()
    assert status == NOT_MEASURED and "no compiler today" in found["error"]


def test_a_planted_fault_is_planted_in_head_alone(repository: Path) -> None:
    status, found = run_gate("--only", "exact", "--plant", "leak-64KiB")
    leak = by_metric(found)["peak_tensor_bytes"]
    assert status == REGRESSED and leak["head"] - leak["base"] == 64 * 1024


def test_each_side_is_measured_by_its_own_bench(repository: Path) -> None:
    """The faces of `ezo` that `bench` calls may change, and `bench` with them."""
    for path in (*repository.glob("ezo/**/*.py"), *repository.glob("bench/**/*.py")):
        text = path.read_text()
        path.write_text(re.sub(r"\bmake_step\b", "step_of", re.sub(r"\bserving\b", "isa", text)))
    for words in ("ezo/precisions/fp32.py", "bench/workload.py"):
        assert "step_of(" in (repository / words).read_text()
    cells = (CELL, dataclasses.replace(CELL, precision="int8"))
    status, found = run_gate("--only", "exact", cells=cells)
    assert status == OK
    assert [f["verdict"] for f in found["findings"]] == ["same"] * 4


def test_the_default_cells_hold_both_arithmetics() -> None:
    assert {cell.precision for cell in gate.CELLS} == {"fp32", "int8"}


def test_a_side_that_speaks_another_protocol_is_refused(repository: Path) -> None:
    path = repository / "bench" / "probe.py"
    own = path.read_text()
    path.write_text(own.replace("PROTOCOL = 1", "PROTOCOL = 7"))
    status, found = run_gate("--only", "exact")
    assert status == NOT_MEASURED and found["findings"] == []
    assert "of (1,), got {'base': 1, 'head': 7}" in found["error"]
    path.unlink()
    status, found = run_gate("--only", "exact")
    assert status == NOT_MEASURED and "expected head to have bench/probe.py" in found["error"]


FOREIGN_BACKEND = """
import pathlib, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = "others-1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, name), "w") as wheel:
        wheel.write("others.py")
        for file, text in {
            "METADATA": "Metadata-Version: 2.1\\nName: others\\nVersion: 1\\n",
            "WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
            "entry_points.txt": "[ezo.models]\\nothers = others\\n",
            "RECORD": "",
        }.items():
            wheel.writestr(f"others-1.dist-info/{file}", text)
    return name
"""
FOREIGN = '''"""A model of another project."""

from torch import nn

NAMES = ("others-net",)
INPUT = "image"
WIDTH = 8


def build(name, classes, channels):
    return nn.Sequential(nn.Flatten(), nn.Linear(784 * channels, WIDTH), nn.Linear(WIDTH, classes))
'''


def test_another_projects_package_is_compared_by_this_bench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "others"
    root.mkdir()
    files = {"backend.py": FOREIGN_BACKEND, "pyproject.toml": PYPROJECT, "others.py": FOREIGN}
    for name, text in files.items():
        (root / name).write_text(text)
    for words in ("init -q", "add -A", "-c user.name=a -c user.email=a@example.org commit -qm a"):
        subprocess.run(["git", *words.split()], cwd=root, check=True)
    (root / "others.py").write_text(FOREIGN.replace("WIDTH = 8", "WIDTH = 16"))
    cells = root / "cells.jsonl"
    cells.write_text('{"model": "others-net", "method": "full-bp", "batch_size": 4}\n\n')
    monkeypatch.chdir(root)
    read = tuple(gate.read_cells(cells))
    assert read == (Workload("others-net", "full-bp", 4),)
    status, found = run_gate("--foreign", "--only", "exact", cells=read)
    metrics = by_metric(found)
    assert status == REGRESSED and metrics["digest"]["verdict"] == "changed"
    assert metrics["peak_tensor_bytes"]["head"] > metrics["peak_tensor_bytes"]["base"]


@pytest.mark.parametrize(
    "line",
    [
        *(b"[1]", b"{", b'{"models": "lenet5"}', b"", b"7", b"\xff\xfe", b"[" * 100_000),
        *(b'{"model": 7, "method": "full-zo"}', b'{"model": "lenet5", "method": "full-zo", "'),
        b'{"model": "lenet5", "method": "full-zo", "batch_size": "8"}',
        b'{"model": "lenet5", "method": "full-zo", "threads": 0}',
    ],
)
def test_a_file_of_cells_that_is_none_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "cells.jsonl"
    path.write_bytes(line + b"\n")
    with pytest.raises(
        ValueError, match="cells.jsonl.*: expected (a|cells) .*, got .*; (mend|add|save)"
    ):
        gate.read_cells(path)


def test_a_metric_of_two_definitions_is_not_measured(repository: Path) -> None:
    path = repository / "bench" / "probe.py"
    path.write_text(path.read_text().replace('{"digest": 1', '{"digest": 2'))
    status, found = run_gate("--only", "exact")
    metrics = by_metric(found)
    assert status == NOT_MEASURED and metrics["peak_tensor_bytes"]["verdict"] == "same"
    assert metrics["digest"]["note"] == "base measures it by definition 1, head by 2"


def test_a_probe_that_names_no_version_speaks_the_first(repository: Path) -> None:
    """As those did that were written before there was one."""
    path = repository / "bench" / "probe.py"
    named = ", **spoken"
    assert named in path.read_text()
    path.write_text(path.read_text().replace(named, ""))
    assert run_gate("--only", "exact")[0] == OK


@pytest.mark.parametrize("option", ["--json", "--markdown"])
@pytest.mark.parametrize("path", ["", "taken/file.md"])
def test_a_file_that_cannot_be_written_is_refused_before_anything_is_measured(
    option: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "taken").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gate, "build_sides", None)
    monkeypatch.setattr(sys, "argv", ["bench", "gate", "--base", "HEAD", option, path])
    assert program.main() == 2
    told = capsys.readouterr()
    assert f"expected {option} to be a file that can be written to" in told.err and not told.out


def test_a_fault_of_the_gate_is_no_regression(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    words = ["bench", "gate", "--base", "HEAD", "--markdown", str(tmp_path / "found.md")]
    monkeypatch.setattr(gate, "build_sides", lambda *_: 1 / 0)
    monkeypatch.setattr(sys, "argv", words)
    assert program.main() == 2 and "ZeroDivisionError" in capsys.readouterr().err
    assert "the gate has not ended" in (tmp_path / "found.md").read_text()
    monkeypatch.setattr(sys, "argv", [*words, "--repeat", "0"])
    assert program.main() == 2 and "--repeat from 1 to" in capsys.readouterr().err


# The verdict on times, from samples of known distribution


def samples(
    ratio: float, noise: float, seed: int, pairs: int = 4, rounds: int = 4
) -> list[list[Sample]]:
    """Log-normal noise on every visit, as much again for each process, and a drift for all."""
    generator = random.Random(seed)

    def process() -> float:
        return math.exp(generator.gauss(0, noise))

    found = []
    for _ in range(pairs):
        base, head, machine = process(), ratio * process(), 1.0
        found.append([])
        for _ in range(rounds):
            machine *= math.exp(generator.gauss(0, 0.1))
            visits = [
                1e-3 * machine * side * math.exp(generator.gauss(0, noise))
                for side in (base, head, head, base)
            ]
            found[-1].append(Sample((visits[0], visits[3]), (visits[1], visits[2])))
    return found


@pytest.mark.parametrize("ratio", [1.1, 2.0])
def test_slower_is_found_in_noise_of_a_percent(ratio: float) -> None:
    verdicts = [judging.judge_time(CELL, samples(ratio, 0.01, n), 0.05).status for n in range(50)]
    assert verdicts == [REGRESSED] * 50


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
def test_the_same_is_not_slower_in_any_noise(noise: float) -> None:
    for n in range(200):
        first = judging.judge_time(CELL, samples(1.0, noise, n), 0.05)
        again = judging.judge_time(CELL, samples(1.0, noise, 1000 + n), 0.05)
        if first.status == REGRESSED:
            assert judging.confirm(first, again).status != REGRESSED


def test_the_interval_holds_the_ratio_about_as_often_as_it_says() -> None:
    held = [judging.ratio(samples(1.1, 0.02, n, pairs=8)) for n in range(200)]
    assert sum(i.low <= 1.1 <= i.high for i in held) >= 180


def test_noise_in_which_nothing_can_be_told_is_not_measured() -> None:
    wide = [[Sample((1.0, 1.0), (1.0, 1.0))], [Sample((1.0, 1.0), (1.5, 1.5))]]
    finding = judging.judge_time(CELL, wide, 0.05)
    assert finding.status == NOT_MEASURED and judging.undecided_yet(wide, 0.05)


def test_a_slowdown_that_the_rerun_does_not_find_is_none() -> None:
    slow = judging.judge_time(CELL, samples(1.2, 0.01, 0), 0.05)
    quiet = judging.judge_time(CELL, samples(1.0, 0.01, 1), 0.05)
    assert slow.status == REGRESSED
    assert judging.confirm(slow, quiet).status == OK
    assert "does not confirm" in judging.confirm(slow, quiet).note
    assert judging.confirm(slow, slow).status == REGRESSED


def test_a_suspicious_speed_up_is_flagged() -> None:
    finding = judging.judge_time(CELL, samples(0.3, 0.01, 0), 0.05)
    assert finding.verdict == "suspicious" and finding.status == OK
    assert "⚠️ suspicious" in Report(findings=[finding]).markdown()


@pytest.mark.parametrize(
    ("more", "tolerance", "status"),
    [(0, 0, OK), (1, 0, REGRESSED), (-1, 0, OK), (64, 64, OK), (65, 64, REGRESSED)],
)
def test_bytes_are_compared_exactly_but_for_a_stated_tolerance(
    more: int, tolerance: int, status: int
) -> None:
    assert judging.compare_bytes(CELL, 1000, 1000 + more, tolerance).status == status


def test_nothing_compared_is_not_measured() -> None:
    assert Report().status == NOT_MEASURED


def test_lost_kernels_fail() -> None:
    sides = {
        label: Side(label, "c", False, Path(), kernels)
        for label, kernels in (("base", "avx2"), ("head", "reference"))
    }
    fine = judging.compare_bytes(CELL, 1, 1, 0)
    report = Report(sides, [fine])
    assert report.status == REGRESSED and "no compiled kernels" in report.markdown()
