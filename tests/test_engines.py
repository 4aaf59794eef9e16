"""Engines: results come as they end, one that fails or is lost stops nobody."""

import functools
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench import __main__ as bench
from bench import engines
from bench.engines import slurm
from ezo import train
from reproduce.__main__ import main
from reproduce.execute import execute
from tests import slurm_stand_in
from tests.engine_work import dies, squared
from tests.lost_workers import runs_of, sweep, told


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The folder that a sweep starts in."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """SLURM's commands of a stand-in."""
    pytest.importorskip("submitit", reason="the extra is not installed")
    if sys.platform != "linux":
        pytest.skip("the stand-in reads /proc")
    slurm_stand_in.put(home / "bin")
    monkeypatch.setenv("PATH", f"{home / 'bin'}:{os.environ['PATH']}")
    for name, seconds in (("LOOK", 0.2), ("LATE", 0.5), ("REFUSED", 1.0)):
        monkeypatch.setattr(slurm, f"{name}_SECONDS", seconds)
    return home / "bin"


@pytest.fixture(params=["joblib", "dask", "slurm:local", "slurm", "slurm of this machine"])
def engine(request: pytest.FixtureRequest, home: Path) -> str:
    name: str = request.param
    for package in {"joblib": [], "dask": ["dask", "distributed"]}.get(name, ["submitit"]):
        pytest.importorskip(package, reason="the extra is not installed")
    if name == "slurm":
        request.getfixturevalue("cluster")
    if name == "slurm of this machine" and (
        shutil.which("sinfo") is None or subprocess.run(["sinfo"], capture_output=True).returncode
    ):
        pytest.skip("no SLURM runs here")
    return name.partition(" ")[0]


@pytest.mark.filterwarnings("ignore")  # the engines' own, of sockets and processes that were killed
def test_every_task_ends_once_and_an_exception_is_a_result(engine: str) -> None:
    found = dict(engines.run(engine, squared, [1, 2, 3], 2))
    assert (found[0], found[1]) == (1, 4)
    assert found[2] == engines.Lost("ValueError: three")


@pytest.mark.filterwarnings("ignore")
def test_a_task_whose_worker_is_lost_is_tried_again(engine: str, tmp_path: Path) -> None:
    work = functools.partial(dies, tmp_path)
    found = dict(engines.run(engine, work, [2, 4], 2))
    assert found == {0: 2, 1: 4} and (tmp_path / "2").read_text() == "2"


@pytest.mark.filterwarnings("ignore")
def test_a_sweep_that_loses_a_worker_has_the_rows_of_an_undisturbed_one(
    engine: str, tmp_path: Path
) -> None:
    runs = runs_of(3, epochs=4)
    found = sweep(engine, runs, tmp_path / "runs", 1)
    assert found == {run.case: told(list(train.train(run))) for run in runs}


def test_a_task_that_always_loses_its_worker_stops_nobody(tmp_path: Path) -> None:
    work = functools.partial(dies, tmp_path)
    found = dict(engines.run("joblib", work, [9, 4], 2))
    assert isinstance(found[0], engines.Lost) and "was lost 3 times" in found[0].note


def test_a_run_that_is_lost_is_a_row_that_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*of: Any) -> Any:
        yield 0, engines.Lost("gone")

    monkeypatch.setattr(engines, "run", none)
    (run,) = runs_of(1)
    ((row,),) = execute([run], tmp_path)
    assert (row.metric, row.note, row.case) == ("failed", "gone", run.case)


def test_an_engine_that_is_not_there_is_an_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    words = ["reproduce", "--preset", "smoke", "--engine", "ray", *out]
    monkeypatch.setattr("sys.argv", words)
    assert main() == 2
    assert "unknown engine 'ray'; known: dask, joblib, slurm" in capsys.readouterr().err
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"extra dask, got no dask.*'\.\[dask\]'"):
        engines.check("dask:tcp://host:1")
    assert not (tmp_path / "out").exists()


def test_timings_stay_on_this_machine_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dask", reason="the extra is not installed")
    words = ["bench", "run", "time", "--engine", "dask", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", words)
    assert bench.main() == 2
    assert "expected --engine joblib for bench.time, got dask: its times are" in (
        capsys.readouterr().err
    )


def test_every_engine_says_what_it_is() -> None:
    assert engines.names() == ["dask", "joblib", "slurm"]
    for name in engines.names():
        file = engines._found(name)
        assert file.__doc__ and file.NEEDS


def test_a_cluster_that_can_not_be_used_is_an_error_before_any_work(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("submitit", reason="the extra is not installed")
    monkeypatch.setenv("PATH", str(home))
    engines.check("slurm:local")
    with pytest.raises(ValueError, match=r"commands of SLURM, got no sbatch.*slurm:local"):
        engines.check("slurm")


def test_a_partition_that_is_not_there_is_an_error_before_any_work(cluster: Path) -> None:
    engines.check("slurm:short")
    with pytest.raises(ValueError, match=r"partition=nope.*Invalid partition name.*SBATCH_ACCOUNT"):
        engines.check("slurm:nope")


def test_a_cluster_that_refuses_for_a_while_loses_nothing(cluster: Path) -> None:
    (cluster / "refuses").touch()  # jobs, and to say what became of them
    threading.Timer(0.7, (cluster / "refuses").unlink).start()
    assert dict(engines.run("slurm", squared, [1, 2], 2)) == {0: 1, 1: 4}


def test_a_cluster_that_refuses_for_long_stops_the_sweep(cluster: Path) -> None:
    (cluster / "refuses").touch()
    with pytest.raises(ValueError, match=r"takes jobs, got, for .*Unable to contact.*goes on"):
        list(engines.run("slurm", squared, [1], 2))


def test_jobs_have_the_limit_of_their_partition(cluster: Path) -> None:
    assert dict(engines.run("slurm:short", squared, [2], 1)) == {0: 4}
    script = (cluster / "script").read_text()
    assert "#SBATCH --partition=short\n" in script and "--time=" not in script


def test_a_driver_that_is_a_job_keeps_its_own_variables(
    cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SLURM_JOB_ID", "SLURM_CPU_BIND", "SLURM_CONF", "SBATCH_ACCOUNT"):
        monkeypatch.setenv(name, "7")
    assert dict(engines.run("slurm", squared, [2], 1)) == {0: 4}
    seen = (cluster / "env-1").read_text().split()
    assert "SLURM_CPU_BIND" not in seen and {"SLURM_CONF", "SBATCH_ACCOUNT"} <= set(seen)
    assert os.environ["SLURM_CPU_BIND"] == "7"


def test_a_job_that_writes_no_log_asks_whether_its_node_reaches_the_folder(cluster: Path) -> None:
    (cluster / "srun").write_text("#!/bin/sh\nexit 1\n")
    ((_, lost),) = engines.run("slurm", squared, [1], 1)
    assert lost.note.startswith("its jobs ended without a result 3 times, the last FAILED; ")
    assert "does every node reach" in lost.note and str(cluster.parent) in lost.note


def test_jobs_of_a_driver_that_stops_are_cancelled_and_its_logs_go(cluster: Path) -> None:
    (cluster / "asleep").touch()
    found = engines.run("slurm", squared, [1, 2, 3], 2)

    def stops(seconds: float) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        # The engine's alone: submitting sleeps too.
        patch.setattr(slurm, "time", SimpleNamespace(sleep=stops, monotonic=time.monotonic))
        next(found)
    assert (cluster / "cancelled").read_text() == "1 2\n"
    assert not list(cluster.parent.glob(".submitit-*"))
