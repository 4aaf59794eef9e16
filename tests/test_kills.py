"""Killed, on a full disk, and where nothing can be written: nothing finished is lost."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kills
import pytest
import several
from kills import Done, Scene

from ezo import checkpoint, rows
from ezo.files import write_text
from ezo.lock import alone_in, held
from ezo.rows import Row
from reproduce.folder import Request

SMALL = ["ezo", "train", "--model", "lenet5", "--data", "digits", "--method", "elastic-1"]
SMALL += ["--epochs", "1", "--train-examples", "64", "--out"]


def test_a_few_kills_lose_nothing() -> None:
    scenes = ["checkpoint", "rows", "train", "merge", "gate"]
    words = [sys.executable, kills.__file__, "--kills", "10", "--scenes", *scenes]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, *kills_met, last = done.stdout.splitlines()
    assert first.startswith("commit ") and "tests/kills.py --kills 10" in first
    assert last.startswith(f"{len(kills_met)} kills: ")


def torn(folder: Path, done: Done) -> None:
    for n in range(done.value + 1, 20):
        (folder / "a").write_text("x" * 5000)
        done.value = n


def torn_kept(folder: Path, done: int) -> None:
    assert not done or len((folder / "a").read_text()) == 5000


def of_its_own_time(folder: Path, done: Done) -> None:
    write_text(folder / "a", str(os.getpid()))


@pytest.mark.parametrize(
    ("work", "kept", "message"),
    [
        (torn, torn_kept, "5000"),
        (of_its_own_time, lambda *_: None, "other bits than without kills"),
        (lambda *_: 1 / 0, lambda *_: None, "failed with 1"),
    ],
)
def test_what_is_lost_or_differs_is_found(
    work: Any, kept: Callable[[Path, int], None], message: str, tmp_path: Path
) -> None:
    scene = Scene(1, kills.nothing, work, kept, kills.files)
    with pytest.raises(AssertionError, match=message):
        list(kills.play(scene, 30, random.Random(0), tmp_path))


# A full disk


def mount(folder: Path, *words: str) -> bool:
    """A small disk, where a process may have one."""
    folder.mkdir(exist_ok=True)
    command = ["mount", *words, str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder with 300 kB of room, too few for a checkpoint: a disk, or else a limit on files."""
    folder = tmp_path / "disk"
    mounted = mount(folder, "-t", "tmpfs", "-o", "size=300k", "tmpfs")
    yield folder
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)


def run(words: list[list[str]], *, limited: bool = False) -> list[tuple[int, str, str]]:
    """What commands come to; where they are limited, no file may have more than 300 kB."""

    def limit() -> None:
        if limited:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = subprocess.run(
        [sys.executable, several.__file__, json.dumps(words)],
        env={**os.environ, "PYTHONPATH": str(Path(kills.__file__).parent.parent)},
        preexec_fn=limit,
        capture_output=True,
        text=True,
        check=True,
    )
    return [(status, out, error) for status, out, error in json.loads(done.stdout)]


def fill(folder: Path) -> None:
    """A folder of a reproduction, with more rows than half of a small disk."""
    row = {"case": "a", "metric": "finished", "value": 1, "unit": "step", "seed": 0}
    rows.write(folder / "rows.jsonl", [Row(**row, note="n" * 900) for _ in range(200)])
    Request("smoke").write(folder)


def test_a_full_disk_is_said_and_loses_nothing(disk: Path, tmp_path: Path) -> None:
    limited = not disk.is_mount()
    fill(tmp_path / "a")
    fill(disk / "m")
    before = (disk / "m" / "rows.jsonl").read_bytes()
    (tmp_path / "a" / "rows.jsonl").write_bytes(before.replace(b'"a"', b'"b"'))
    merge = ["reproduce", "merge", str(tmp_path / "a"), "--out", str(disk / "m")]
    whole, full, merged = (
        run([[*SMALL, str(tmp_path / "whole")], [*SMALL, str(disk / "run")], merge])[:3]
        if not limited
        else (
            *run([[*SMALL, str(tmp_path / "whole")]]),
            *run([[*SMALL, str(disk / "run")], merge], limited=True),
        )
    )
    assert whole[0] == 0, whole[2]
    for status, _, error in (full, merged):
        assert status == 2 and "Traceback" not in error
        assert "expected a place to write" in error and "make room" in error
    assert (disk / "m" / "rows.jsonl").read_bytes() == before
    assert not list(disk.rglob("*.ezo-tmp"))  # a part of a file only takes room
    if not limited:
        mount(disk, "-o", "remount,size=20m")
    again, merged = run([[*SMALL, str(disk / "run")], merge])
    assert again[0] == 0 and again[1].splitlines()[-1] == whole[1].splitlines()[-1]
    assert merged[0] == 0 and len(rows.read(disk / "m" / "rows.jsonl")) == 400


def test_a_folder_that_is_read_only_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    small = mount(folder, "-t", "tmpfs", "tmpfs")
    try:
        fill(folder / "a")
        before = run([[*SMALL, str(folder / "run")]])
        if small:
            mount(folder, "-o", "remount,ro")
        elif os.getuid():
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o500 if path.is_dir() else 0o400)
        else:  # root, for whom modes are nothing: a file where a folder should be
            (folder / "run").rename(tmp_path / "run")
            (folder / "run").write_text("")
            (folder / "new").write_text("")
            (folder / "a" / "lock").mkdir()
        outs = [folder / "run", folder / "new"]
        words = [[*SMALL, str(out)] for out in outs]
        words += [["bench", "run", "float_operations", "--out", str(folder / "new")]]
        words += [["reproduce", "--preset", "smoke", "--out", str(folder / "new")]]
        words += [["reproduce", "merge", str(folder / "a"), "--out", str(folder / "new")]]
        words += [["reproduce", "--redraw", str(folder / "a")]]
        words += [["search", "--out", str(folder / "new")]]
        for status, _, error in run(words):
            assert status == 2 and "expected a folder that can be written to, got" in error, error
            assert "give another --out" in error and "Traceback" not in error
        ((status, out, _),) = run([["reproduce", "status", str(folder / "a")]])
        assert status == 0 and "3 runs" in out
        assert before[0][0] == 0
    finally:
        if small:
            subprocess.run(["umount", str(folder)], check=True)


# Two at once


@pytest.mark.parametrize(
    "words",
    [
        SMALL,
        ["reproduce", "--preset", "smoke", "--jobs", "1", "--out"],
        ["reproduce", "--redraw"],
        ["reproduce", "merge", "OUT", "--out"],
        ["search", "--out"],
        ["bench", "run", "float_operations", "--out"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_folder_in_which_another_works_is_refused(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    given = [str(tmp_path) if word == "OUT" else word for word in words]
    with alone_in(tmp_path):
        status, _, error = several.run([*given, str(tmp_path)])
    assert status == 2 and "another process works here; wait until it ends, or" in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before | {"lock": b""}


def test_a_lock_can_be_waited_for_and_looked_at(tmp_path: Path) -> None:
    assert not held(tmp_path)
    order = []

    def wait() -> None:
        with alone_in(tmp_path, wait=True):
            order.append("second")

    with alone_in(tmp_path):
        assert held(tmp_path)
        other = threading.Thread(target=wait)
        other.start()
        order.append("first")
    other.join()
    assert order == ["first", "second"] and not held(tmp_path)


def test_what_an_earlier_version_left_in_the_place_of_a_checkpoint_is_no_hindrance(
    tmp_path: Path,
) -> None:
    (tmp_path / "c.ezo-tmp").write_bytes(b"half")
    checkpoint.save(tmp_path / "c", {"step": 1})
    (tmp_path / "c.ezo-tmp").mkdir()
    (tmp_path / "c.ezo-tmp" / ".tmpA1").write_bytes(b"half")
    checkpoint.save(tmp_path / "c", {"step": 2})
    assert checkpoint.load(tmp_path / "c") == {"step": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["c"]
