"""Engines: results come as they end, one that fails or is lost stops nobody."""

import functools
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import engines
from ezo import train
from reproduce.__main__ import main
from reproduce.execute import execute
from tests.engine_work import dies, squared
from tests.lost_workers import runs_of, sweep, told


@pytest.fixture(params=["joblib", "dask", "slurm:local"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    name: str = request.param
    for package in {"joblib": [], "dask": ["dask", "distributed"]}.get(name, ["submitit"]):
        pytest.importorskip(package, reason="the extra is not installed")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    return name


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
