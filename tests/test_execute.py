"""Running: side by side, resumed, started from each other, and told about while they run."""

import contextlib
import io
import os
import platform
import subprocess
import sys
import textwrap
import time
from dataclasses import replace

import psutil
import pytest
import torch
from filelock import FileLock
from made_rows import cell_rows, run_rows

from ezo import checkpoint, rows, train
from ezo.rows import Row
from ezo.train import Run
from reproduce import cost, kill, parts, presets, report, stamp, status
from reproduce.__main__ import main
from reproduce.execute import execute
from reproduce.experiments import Experiment
from reproduce.folder import Request, asked, read_rows
from reproduce.merge import merge
from reproduce.presets import Preset
from reproduce.progress import Progress, RunsLeft

FIRST = Run("lenet5", "digits", "full-bp", epochs=1, train_examples=64)
SECOND = replace(FIRST, method="elastic-1", start=FIRST.case)


def test_a_failing_run_is_a_row_and_the_others_go_on(tmp_path):
    good = replace(FIRST, method="full-zo")
    bad = replace(good, model="pointnet")
    done = list(execute([bad, good], tmp_path))
    assert [part[-1].metric for part in done] == ["failed", "finished"]
    assert "expected data of points" in done[0][-1].note


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc can be told")
@pytest.mark.parametrize("kept", [True, False])
def test_a_run_keeps_the_memory_of_large_tensors_with_its_process(kept):
    source = f"""
        import psutil, torch
        from bench.isolate import keep_memory
        if {kept}:
            keep_memory()
        process = psutil.Process()
        before = process.memory_info().rss
        x = torch.ones(8 << 20)
        del x
        print(process.memory_info().rss - before)
    """
    words = [sys.executable, "-c", textwrap.dedent(source)]
    grown = int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (grown > 24 << 20) == kept


def test_a_run_that_starts_from_another_waits_for_it_and_gets_its_final_weights(tmp_path):
    done = list(execute([SECOND, FIRST], tmp_path))
    assert [part[0].case for part in done] == [FIRST.case, SECOND.case]
    first, second = ({(r.metric, r.step): r.value for r in part} for part in done)
    assert second["test_accuracy", 0] == first["test_accuracy", 2]
    assert second["test_loss", 0] == first["test_loss", 2]
    assert done[1][0].config["start"] == FIRST.case


def test_integers_start_from_fp32_weights(tmp_path):
    start = replace(FIRST, epochs=2, train_examples=None)
    integer = replace(SECOND, precision="int8", start=start.case)
    done = list(execute([integer, start], tmp_path))
    before, after = ([row.value for row in part if row.metric == "test_accuracy"] for part in done)
    assert done[1][-1].metric == "finished", done[1][-1].note
    assert before[-1] > 80 and abs(after[0] - before[-1]) < 5


def test_fine_tuning_goes_on_after_a_stop_to_the_same_bits(tmp_path):
    list(execute([FIRST, SECOND], tmp_path / "whole"))
    list(execute([FIRST], tmp_path / "parts"))
    out = tmp_path / "parts" / SECOND.case
    stopped = train.train(SECOND, out=out, checkpoint_steps=1)
    next(stopped)
    stopped.close()
    list(train.train(SECOND, out=out))
    ends = [rows.read(tmp_path / p / SECOND.case / "rows.jsonl")[-1] for p in ("whole", "parts")]
    assert ends[0].metric == "finished" and ends[0].note == ends[1].note


def test_a_start_that_is_missing_unfinished_or_of_another_model_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="give an out beside that run's"):
        next(train.train(SECOND))
    with pytest.raises(ValueError, match="expected a finished run.*got none; train it first"):
        next(train.train(SECOND, out=tmp_path / SECOND.case))
    begun = train.train(FIRST, out=tmp_path / FIRST.case)
    next(begun)
    begun.close()
    with pytest.raises(ValueError, match="expected a finished run.*got test_loss"):
        next(train.train(SECOND, out=tmp_path / SECOND.case))
    other = Row(FIRST.case, "finished", 1, "step", model="pointnet")
    rows.write(tmp_path / FIRST.case / "rows.jsonl", [other])
    with pytest.raises(ValueError, match="run of lenet5 in fp32, got one of pointnet in fp32"):
        next(train.train(SECOND, out=tmp_path / SECOND.case))


def test_a_run_that_another_process_trains_is_waited_for(tmp_path):
    code = f"""
        import sys, time
        from filelock import FileLock
        from pathlib import Path
        folder = Path({str(tmp_path / FIRST.case)!r})
        folder.mkdir()
        with FileLock(folder / "lock"):
            print("held", flush=True)
            time.sleep(1.0)
            (folder / "rows.jsonl").write_text("left behind")
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        (done,) = execute([FIRST], tmp_path)
    assert done[-1].metric == "finished"
    assert rows.read(tmp_path / FIRST.case / "rows.jsonl") == done


@pytest.fixture
def tiny(monkeypatch):
    """A preset of two runs, one of which starts from the other."""
    runs = {
        "first": Experiment("training", lambda: [FIRST]),
        "second": Experiment("fine-tuning", lambda: [SECOND]),
    }
    monkeypatch.setitem(presets.PRESETS, "tiny", Preset("Two runs.", runs))


def call(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["reproduce", *map(str, words)])
    return main()


def test_the_command_runs_reports_and_redraws(tiny, tmp_path, monkeypatch, capsys):
    assert call(monkeypatch, "--preset", "tiny", "--jobs", 1, "--out", tmp_path) == 0
    made = read_rows(tmp_path)
    assert [row.case for row in made if row.metric == "finished"] == [FIRST.case, SECOND.case]
    assert {row.experiment for row in made} == {"training", "fine-tuning"}
    assert {row.config["source"] for row in made} == {stamp.here()}
    before = (tmp_path / "report.html").read_bytes()
    assert call(monkeypatch, "--redraw", tmp_path) == 0
    assert (tmp_path / "report.html").read_bytes() == before
    assert call(monkeypatch, "status", tmp_path) == 0
    assert "2 finished; 2 runs" in capsys.readouterr().out


def test_a_run_into_a_merged_folder_keeps_what_lies_there(tiny, tmp_path, monkeypatch):
    a, merged = tmp_path / "a", tmp_path / "merged"
    words = ("--preset", "tiny", "--jobs", 1, "--experiments", "first", "--out")
    assert call(monkeypatch, *words, a) == 0
    other = folder(tmp_path / "b", run_rows("full-zo", 7, 80.0), preset="tiny")
    assert call(monkeypatch, "merge", a, other, "--out", merged) == 0
    before = {row.case for row in read_rows(merged)}
    assert call(monkeypatch, *words, merged) == 0
    assert {row.case for row in read_rows(merged)} == before and len(before) == 2
    assert not (merged / "runs").exists()  # what was joined is not trained again
    assert call(monkeypatch, *words[:-3], "--out", merged) == 0  # its weights are a start, though
    assert {row.case for row in read_rows(merged)} == before | {SECOND.case}
    assert call(monkeypatch, "merge", other, "--out", merged) == 0
    assert {row.case for row in read_rows(merged)} == before | {SECOND.case}


def test_a_folder_of_another_preset_is_refused(tiny, tmp_path, monkeypatch, capsys):
    Request("smoke").write(tmp_path)
    assert call(monkeypatch, "--preset", "tiny", "--out", tmp_path) == 2
    assert "expected the folder of preset tiny, got one of smoke" in capsys.readouterr().err
    assert asked(tmp_path) == Request("smoke")


def test_what_other_code_made_is_kept_said_and_done_again_when_asked(
    tiny, tmp_path, monkeypatch, capsys
):
    words = ("--preset", "tiny", "--jobs", 1, "--out", tmp_path)
    monkeypatch.setattr(stamp, "here", lambda: "before")
    assert call(monkeypatch, *words) == 0
    assert "other code" not in capsys.readouterr().out
    monkeypatch.setattr(stamp, "here", lambda: "after")
    assert call(monkeypatch, *words) == 0
    assert "2 runs and 0 measurements here were made by other code" in capsys.readouterr().out
    assert {row.config["source"] for row in read_rows(tmp_path)} == {"before"}
    assert call(monkeypatch, *words, "--again") == 0
    assert {row.config["source"] for row in read_rows(tmp_path)} == {"after"}


def test_a_run_that_goes_on_under_other_code_says_both(tmp_path, monkeypatch):
    out = tmp_path / FIRST.case
    monkeypatch.setattr(stamp, "here", lambda: "before")
    stamp.note(tmp_path, begun=False)
    assert stamp.of(tmp_path) == "before"
    begun = train.train(FIRST, out=out, checkpoint_steps=1)
    next(begun)
    begun.close()
    (out / stamp.FILE).write_text("before\n")
    monkeypatch.setattr(stamp, "here", lambda: "after")
    list(execute([FIRST], tmp_path))
    assert stamp.of(out) == "before+after"


def test_the_stamp_is_of_what_can_change_a_row(tmp_path):
    for name in ("optim.py", "cli.py", "csrc/sweep.cpp", "tuned.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    before = stamp.digest(tmp_path)
    for name, differs in (
        ("cli.py", False),
        ("tuned.json", False),
        ("optim.py", True),
        ("csrc/sweep.cpp", True),
    ):
        (tmp_path / name).write_text("after")
        assert (stamp.digest(tmp_path) != before) == differs
        (tmp_path / name).write_text("before")


def test_cells_that_an_earlier_version_kept_in_files_are_read(tmp_path):
    kept = cell_rows("turn_seconds", {"full-zo": 1.0}, unit="s", benchmark="precisions")
    rows.write(tmp_path / "cells" / "precisions-lenet5-full-zo-precisions-0.jsonl", kept)
    rows.write(tmp_path / "rows.jsonl", kept)
    found = parts.read(tmp_path, {})
    assert list(found) == [("precisions", "lenet5-full-zo-precisions")]


def test_a_report_that_fails_says_where_the_rows_are(tiny, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(report, "write", fail)
    words = ("--preset", "tiny", "--jobs", 1, "--out", tmp_path)
    assert call(monkeypatch, *words) == 2
    told = capsys.readouterr().err
    assert "RuntimeError: no fonts" in told and f"--redraw {tmp_path}" in told
    assert len({row.case for row in read_rows(tmp_path)}) == 2
    monkeypatch.undo()
    assert report.write(tmp_path, "tiny", presets.PRESETS["smoke"])


def test_the_time_left_falls_and_never_jumps():
    now = [0.0]
    progress = Progress(100.0, out=io.StringIO(), clock=lambda: now[0])
    shown = []
    for second in range(1, 300):  # the work takes three times as long as was predicted
        now[0] = float(second)
        if second % 30 == 0:
            progress.done(10.0)
        progress.line()
        shown.append(progress.left)
    falls = [a - b for a, b in zip(shown, shown[1:], strict=False)]
    assert all(0 <= fall <= 3.0 for fall in falls)
    assert shown[150] > 40 and shown[-1] < 10
    progress = Progress(100.0, out=io.StringIO(), clock=lambda: now[0])
    assert "0% done, 0:00 gone, about 1:40 left" in progress.line()


def test_progress_counts_what_the_runs_under_way_have_trained(tmp_path):
    stopped, fresh = (replace(FIRST, method=method, epochs=4) for method in ("full-zo", "full-bp"))

    def trains(run, epochs):
        row = Row(run.case, "loss", 1.0, "nat", step=epochs * cost.steps(FIRST))
        rows.write(tmp_path / run.case / "rows.jsonl", [row], append=True)

    (tmp_path / stopped.case).mkdir()
    (tmp_path / fresh.case).mkdir()
    trains(stopped, 2)  # before it was stopped, so that half of it is left
    left = RunsLeft([stopped, fresh], tmp_path, jobs=2)
    assert left.seconds() == (cost.seconds(stopped) / 2 + cost.seconds(fresh)) / 2
    progress = Progress(left.seconds(), left.trained, out=io.StringIO())
    assert "   0% done" in progress.line()
    trains(fresh, 3)
    assert "  50% done" in progress.line()
    trains(stopped, 3)
    assert "  67% done" in progress.line()
    progress.done(left.ended(fresh.case))
    assert "  83% done" in progress.line()
    progress.done(left.ended(stopped.case))
    assert " 100% done" in progress.line()


def test_progress_is_one_line_on_standard_output(capsys):
    with Progress(10.0) as progress:
        progress.doing = "training"
        time.sleep(1.2)
    told = capsys.readouterr()
    assert (
        told.err == "" and told.out.count("\n") == 1 and told.out.startswith("training:   0% done")
    )


def test_a_part_alone_brings_what_it_starts_from(tiny, tmp_path, monkeypatch):
    words = ("--preset", "tiny", "--experiments", "second", "--jobs", 1, "--out", tmp_path)
    assert call(monkeypatch, *words) == 0
    assert {row.case for row in read_rows(tmp_path)} == {FIRST.case, SECOND.case}
    assert asked(tmp_path) == Request("tiny", ("second",), 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("status", "nowhere"), "got no such folder: nowhere; `python -m reproduce --preset"),
        (("--redraw", "nowhere"), "got no such folder: nowhere; `python -m reproduce --preset"),
        (("status", "."), "got a folder without preset.json: .; `python -m"),
        (("merge", "nowhere", "--out", "there"), "run the preset first"),
    ],
)
def test_a_folder_that_is_none_is_an_error_that_says_what_to_do(
    words, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, *words) == 2
    assert message in capsys.readouterr().err


def test_unusable_arguments_say_what_is_known(tiny, tmp_path, monkeypatch, capsys):
    words = ("--preset", "tiny", "--out", tmp_path)
    with pytest.raises(SystemExit):
        call(monkeypatch, *words, "--experiments", "third")
    assert "known: first, second" in capsys.readouterr().err
    assert call(monkeypatch, *words, "--jobs", "0") == 2
    assert "expected --jobs from 1 to 1024, got 0" in capsys.readouterr().err


def test_status_tells_running_stopped_and_waiting_runs_apart(tiny, tmp_path):
    Request("tiny", (), 2).write(tmp_path)
    assert "2 waiting; 2 runs" in status.lines(tmp_path)
    folder = tmp_path / "runs" / FIRST.case
    begun = train.train(FIRST, out=folder)
    next(begun)
    begun.close()
    text = "\n".join(status.lines(tmp_path))
    assert "1 stopped, 1 waiting" in text and "left: about" in text and "2 jobs" in text
    with FileLock(folder / "lock"):
        text = "\n".join(status.lines(tmp_path))
    assert "1 running, 1 waiting" in text and f"running    0%  {FIRST.case}" in text
    with (folder / "rows.jsonl").open("a") as file:
        file.write('{"case": "half a li')
    assert "1 stopped, 1 waiting" in "\n".join(status.lines(tmp_path))


def test_status_names_what_failed(tiny, tmp_path):
    Request("tiny").write(tmp_path)
    rows.write(tmp_path / "rows.jsonl", [Row(FIRST.case, "failed", None, "", note="no room")])
    text = "\n".join(status.lines(tmp_path))
    assert "1 failed, 1 waiting" in text and f"failed: {FIRST.case}: no room" in text


def folder(path, *parts, preset="quick"):
    rows.write(path / "rows.jsonl", [row for part in parts for row in part])
    Request(preset).write(path)
    return path


def test_merging_keeps_each_run_once_and_prefers_the_one_that_ended(tmp_path, capsys):
    zo, failed = run_rows("full-zo", 0, 80.0), run_rows("full-bp", 0, 90.0, end="failed")
    bp = run_rows("full-bp", 0, 98.0)
    a = folder(tmp_path / "a", zo, failed)
    b = folder(tmp_path / "b", bp, [replace(row, note="other weights") for row in zo])
    merge([a, b], tmp_path / "out")
    assert read_rows(tmp_path / "out") == [*zo, *bp]
    assert asked(tmp_path / "out") == Request("quick")
    assert "ended otherwise" in capsys.readouterr().err


def test_merging_keeps_every_measurement_of_a_case(tmp_path):
    memory, time, again = (
        cell_rows(metric, {"full-zo": value}, benchmark=benchmark)
        for metric, value, benchmark in (
            ("peak_tensor_bytes", 100, "memory"),
            ("step_over_two_forwards", 1.1, "steptime"),
            ("step_over_two_forwards", 1.2, "steptime"),
        )
    )
    made = [replace(row, case="lenet5-full-zo") for row in (*memory, *time, *again)]
    a, b = (folder(tmp_path / name, made[n : n + 2]) for name, n in (("a", 0), ("b", 1)))
    merge([a, b], tmp_path / "out")
    assert read_rows(tmp_path / "out") == made[:2]


def test_merging_refuses_two_settings_of_one_run_and_two_presets(tmp_path):
    a = folder(tmp_path / "a", run_rows("full-zo", 0, 80.0))
    b = folder(tmp_path / "b", run_rows("full-zo", 0, 80.0, lr=0.5))
    with pytest.raises(ValueError, match=r"differ in lr 0\.001 and 0\.5"):
        merge([a, b], tmp_path / "out")
    of = {"experiment": "noises"}
    noises = [
        folder(tmp_path / noise, run_rows("full-zo", 0, 80.0, noise=noise, **of))
        for noise in ("gaussian-16", "rademacher-1")
    ]
    merge(noises, tmp_path / "both")  # are the runs of one experiment
    assert len({row.case for row in read_rows(tmp_path / "both")}) == 2
    c = folder(tmp_path / "c", run_rows("full-bp", 0, 80.0), preset="paper")
    with pytest.raises(ValueError, match="expected folders of one preset, got paper, quick"):
        merge([a, c], tmp_path / "out")
    assert not (tmp_path / "out").exists()


KILLED = """
import sys
from pathlib import Path
from ezo.train import Run
from reproduce.execute import execute

def run(method, epochs, start=""):
    return Run("lenet5", "digits", method, epochs=epochs, train_examples=640, start=start)

first = run("full-bp", 6)
runs = [run("full-zo", 12), run("elastic-1", 12), first, run("elastic-2", 6, first.case)]
for part in execute(runs, Path(sys.argv[1]) / "runs", jobs=2, checkpoint_steps=7):
    assert part[-1].metric == "finished", part[-1].note
"""
KILLS = int(os.environ.get("EZO_KILLS", "2"))  # 20 for the whole test; it takes minutes


def numbers(out):
    """Everything the runs of a folder say but seconds, and their weights."""
    return {
        path.parent.name: (
            [
                (r.metric, r.step, r.value, r.note)
                for r in rows.read(path)
                if r.metric != "train_seconds"
            ],
            checkpoint.digest(checkpoint.load(path.with_name("checkpoint.safetensors"))["model"]),
        )
        for path in (out / "runs").glob("*/rows.jsonl")
    }


def test_kills_at_random_lose_no_run_that_ended_and_change_no_number(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    whole, killed = ([sys.executable, script, tmp_path / name] for name in ("whole", "killed"))
    started = time.perf_counter()
    subprocess.run(whole, check=True, capture_output=True)
    longest = 0.5 * (time.perf_counter() - started)  # the machine may be quicker next time
    met = kill.kill_and_resume(list(map(str, killed)), killed[-1], kills=KILLS, longest=longest)
    assert met >= 1
    expected = numbers(whole[-1])
    assert len(expected) == 4 and numbers(killed[-1]) == expected


def test_a_run_that_was_lost_after_it_ended_is_noticed(tmp_path):
    path = tmp_path / "runs" / "a" / "rows.jsonl"
    rows.write(path, [Row("a", "finished", 1, "step")])
    before = kill._compare(tmp_path, {})
    rows.write(path, [Row("a", "finished", 2, "step")])
    with pytest.raises(AssertionError, match="a had ended"):
        kill._compare(tmp_path, before)


def _is_worker(process):
    with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
        return "LokyProcess" in " ".join(process.cmdline())
    return False


def test_workers_whose_driver_was_killed_end_with_their_run(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(KILLED)
    driver = psutil.Popen([sys.executable, script, tmp_path / "out"], stderr=subprocess.DEVNULL)
    folders = tmp_path / "out" / "runs"
    while not list(folders.glob("*/checkpoint.safetensors")):  # both train, or soon will
        assert driver.is_running()
        time.sleep(0.05)
    workers = [p for p in driver.children(recursive=True) if _is_worker(p)]
    assert len(workers) == 2
    driver.kill()
    driver.wait()
    _, alive = psutil.wait_procs(workers, timeout=120)
    assert not alive
    ended = [rows.read(path)[-1].metric for path in folders.glob("*/rows.jsonl")]
    assert "finished" in ended


def test_runs_of_two_folders_are_compared_number_by_number(tmp_path):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for out in (ours, theirs):
        for case in ("a", "b"):
            seconds = Row(case, "train_seconds", float(len(str(out))), "s")
            end = Row(case, "finished", 1, "step", note="digest")
            rows.write(out / "runs" / case / "rows.jsonl", [seconds, end])
    rows.write(theirs / "runs" / "c" / "rows.jsonl", [Row("c", "test_loss", 1, "nat")])
    assert kill.compare(ours, theirs) == 2
    rows.write(theirs / "runs" / "b" / "rows.jsonl", [replace(end, note="another")])
    with pytest.raises(AssertionError, match="b has other numbers in"):
        kill.compare(ours, theirs)


def test_training_from_given_weights_leaves_the_global_generator_alone(tmp_path):
    list(execute([FIRST], tmp_path))
    before = torch.get_rng_state()
    list(train.train(SECOND, out=tmp_path / SECOND.case))
    assert torch.equal(torch.get_rng_state(), before)


def test_status_counts_runs_whose_rows_were_joined_from_elsewhere(tmp_path):
    Request("smoke").write(tmp_path)
    run, *_ = (r for found in presets.PRESETS["smoke"].runs().values() for r in found)
    rows.write(tmp_path / "rows.jsonl", [Row(run.case, "finished", 1, "step", seed=0)])
    assert "1 finished, 2 waiting; 3 runs" in status.lines(tmp_path)
