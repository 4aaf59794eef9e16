"""Damaged and hostile input is refused with what to do: a few of each kind, and faults."""

import gzip
import json
import os
import pickle
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz
import fuzz_targets
import h5py
import numpy as np
import pytest
from fuzz import Fault, attempt
from fuzz_input import Target
from fuzz_targets import ROW, TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

from ezo import checkpoint, rows
from ezo.data import _files, modelnet40
from reproduce import folder as folders

FEW = 20  # inputs of each target


@pytest.mark.parametrize("name", [name for name in TARGETS if TARGETS[name].weight > 1])
def test_no_input_is_more_than_refused(name: str) -> None:
    fuzz_targets.warm()

    @settings(max_examples=FEW, deadline=None, derandomize=True, database=None)
    @given(st.randoms(use_true_random=False))
    def tried(chance: random.Random) -> None:
        with tempfile.TemporaryDirectory() as folder:
            attempt(TARGETS[name], chance, Path(folder))

    tried()


def reads(read: Callable[[Path], Any]) -> Target:
    return Target("planted", 1, lambda chance, folder: folder, read, lambda value: value is None)


def refuse(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("read", "message"),
    [
        (lambda _: refuse(KeyError("a")), "KeyError"),
        (lambda _: refuse(ValueError("bad")), "ValueError: 'bad'"),
        (lambda _: refuse(OSError(28, "No space left on device")), "No space left"),
        (lambda _: refuse(RecursionError()), "RecursionError"),
        (lambda _: sys.exit(1), "SystemExit"),
        (lambda _: 3, "accepted 3"),
        (lambda _: np.float32(1e300) and None, "RuntimeWarning"),
        (lambda _: exec(compile("1", "<data>", "exec")), "code from <data>"),
        (lambda _: pickle.loads(pickle.dumps(Path("a"))), "pickle.find_class"),
        (lambda _: os.system("true"), "os.system"),
        (lambda folder: (folder.parent / "b").write_text("x") and None, "outside the folder"),
        (lambda folder: os.rename(folder, folder.parent / "b"), "outside the folder"),
        (lambda folder: (folder / ".." / "b").mkdir(), "outside the folder"),
    ],
)
def test_a_fault_is_found(read: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(Fault, match=message):
        attempt(reads(read), random.Random(0), tmp_path / "in")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_hang_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz, "CPU_SECONDS", 0.05)
    with pytest.raises(Fault, match="more than 0.05 s"):
        attempt(
            reads(lambda _: [time.process_time() for _ in iter(int, 1)]), random.Random(0), tmp_path
        )


def test_what_is_refused_as_it_should_be_is_no_fault(tmp_path: Path) -> None:
    error = ValueError("a.txt: expected a number, got 'x'; write one")
    assert attempt(reads(lambda _: refuse(error)), random.Random(0), tmp_path) == "refused"
    read = reads(lambda folder: (folder / "a").write_text("x") and None)
    assert attempt(read, random.Random(0), tmp_path) == "accepted"


def test_the_script_counts_every_input_and_goes_on_where_it_was(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    words = [sys.executable, fuzz.__file__, "--log", str(log), "--inputs"]
    told = subprocess.run([*words, "1100"], capture_output=True, text=True, check=True).stdout
    first = log.read_text().splitlines()
    assert told.endswith("\n".join(first[-len(TARGETS) - 2 :]) + "\n")
    assert first[1].startswith("commit ") and "fuzz.py --log" in first[1]
    assert [line.split()[:2] for line in first[2:4]] == [["chunk", "0"], ["chunk", "1000"]]
    assert first[-1].split()[1] == "1,100" and first[-1].split()[-1] == "0"


def test_an_input_that_ends_the_process_is_a_fault_and_the_rest_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def read(path: Path) -> None:
        if fuzz_targets.ROW.case and len(list(path.parent.parent.iterdir())) and next(numbers) == 3:
            os._exit(7)

    numbers = iter(range(10))
    dies = Target("dies", 1, lambda chance, folder: folder / "a", read, lambda _: True)
    monkeypatch.setattr(fuzz, "TARGETS", {"dies": dies})
    lines = fuzz.chunk(0, range(10, 16))
    assert lines[0].startswith("fault 13 dies: the process died")


# What the long runs found


@pytest.mark.parametrize(
    "change",
    [
        {"value": "98.5"},
        {"value": True},
        {"value": 10**400},
        {"value": float("nan")},
        {"seed": 0.5},
        {"note": None},
        {"config": {"lr": float("inf")}},
        {"config": {"lr": [1]}},
        {"versions": {"torch": 2}},
    ],
)
def test_a_row_with_a_value_of_another_kind_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    text = json.dumps({**json.loads(ROW.json()), **change})
    (tmp_path / "rows.jsonl").write_text(f"{ROW.json()}\n{text}\n")
    with pytest.raises(
        ValueError, match=r"rows\.jsonl, line 2: expected a row .*; remove the line"
    ):
        rows.read(tmp_path / "rows.jsonl")


@pytest.mark.parametrize(
    "line", [b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5000, b"x" * 2**21]
)
def test_a_line_that_is_no_text_too_deep_or_too_long_is_refused(
    line: bytes, tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_bytes(ROW.json().encode() + b"\n" + line + b"\n")
    with pytest.raises(ValueError, match=r"line 2: expected a row"):
        rows.read(tmp_path / "rows.jsonl")


def test_rows_that_were_not_compressed_whole_are_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "rows.jsonl.gz", gzip.compress(ROW.json().encode() + b"\n")
    for damaged in (
        data[:-9],
        data[:-8] + b"\0\0\0\0" + data[-4:],
        b"no gzip",
        data[:10] + b"\xff" * 20,
    ):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="expected a whole gzip file of rows, got: .*; fetch"):
            rows.read(path)
    with pytest.raises(
        FileNotFoundError, match="expected a file of rows, got: No such file.*; name"
    ):
        rows.read(tmp_path / "none.jsonl")


def test_a_note_with_a_name_that_is_no_text_is_written_and_read(tmp_path: Path) -> None:
    row = replace(ROW, note=os.fsdecode(b"no file \xff"))
    rows.write(tmp_path / "rows.jsonl", [row])
    assert rows.read(tmp_path / "rows.jsonl") == [row]


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused_at_once(tmp_path: Path) -> None:
    fuzz_targets.make_bomb(random.Random(0), tmp_path)
    with pytest.raises(ValueError, match="expected a header of 16|got 0x|24 bytes after"):
        _files.read_idx(tmp_path / "f", fuzz_targets.SHAPE)


def test_a_checkpoint_that_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    nested: Any = 1
    for _ in range(300):
        nested = [nested]
    checkpoint.save(tmp_path / "c", nested)
    data = (tmp_path / "c").read_bytes()
    header = json.loads(data[8:])
    deep = '{"list": [' * 20_000 + '{"value": 1}' + "]}" * 20_000
    text = json.dumps({**header, "__metadata__": {"ezo": deep}}).encode()
    (tmp_path / "c").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(ValueError, match="expected a checkpoint that ezo wrote.*; remove it"):
        checkpoint.load(tmp_path / "c")
    with pytest.raises(
        FileNotFoundError, match="expected a checkpoint that ezo wrote, got: .*; name one"
    ):
        checkpoint.load(tmp_path / "none")


@pytest.mark.parametrize("what", ["external", "virtual", "link", "huge", "empty"])
def test_points_that_lie_in_another_file_or_are_too_many_are_refused(
    what: str, tmp_path: Path
) -> None:
    shape = (4, modelnet40.LARGEST, 3)
    (tmp_path / "raw").write_bytes(np.zeros(shape, np.float32).tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["data"] = np.zeros(shape, np.float32)
    with h5py.File(tmp_path / "f.h5", "w") as file:
        clouds = {"huge": 10**8, "empty": 0}.get(what, 4)
        chunked = what == "huge"  # else all would be written
        file.create_dataset("label", (clouds, 1), "u1", chunks=(1024, 1) if chunked else None)
        if what == "external":
            file.create_dataset("data", shape, "f4", external=[(tmp_path / "raw", 0, 10**9)])
        elif what == "virtual":
            layout = h5py.VirtualLayout(shape, "f4")
            layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "data", shape)
            file.create_virtual_dataset("data", layout)
        elif what == "link":
            file["data"] = h5py.ExternalLink(tmp_path / "other.h5", "/data")
        else:
            chunks = (16, *shape[1:]) if chunked else None
            file.create_dataset("data", (clouds, *shape[1:]), "f4", chunks=chunks)
    with pytest.raises(
        ValueError, match="expected (the arrays 'data' and 'label'|1 to 9840 clouds), got"
    ):
        modelnet40._read_file(tmp_path / "f.h5", 8)


@pytest.mark.parametrize(
    "change",
    [
        {"preset": "surprise"},
        {"preset": []},
        {"jobs": 0},
        {"jobs": 1e400},
        {"experiments": ["surprise"]},
        {"experiments": 3},
    ],
)
def test_a_folder_that_was_asked_for_what_there_is_not_is_refused(
    change: dict[str, Any], tmp_path: Path
) -> None:
    text = json.dumps({"preset": "smoke", "experiments": ["digits"], "jobs": 2} | change)
    (tmp_path / "preset.json").write_text(text)
    with pytest.raises(
        ValueError, match=r"preset\.json: expected what `python -m reproduce .*, got"
    ):
        folders.asked(tmp_path)
