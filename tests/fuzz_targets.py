"""What is parsed, and how `fuzz` makes input for it: valid files and words, damaged or mocked."""

import contextlib
import gzip
import io
import json
import math
import random
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import fuzz_files
import fuzz_states
import h5py
import numpy as np
import torch
from fuzz_files import FILES
from fuzz_input import Target, bend, damage, text
from fuzz_states import STATES
from fuzz_words import WORDS
from torch import Tensor

from ezo import checkpoint, rows
from ezo.data import _files, modelnet40
from ezo.data._vision import import_torchvision
from ezo.rows import Row
from reproduce import folder as folders
from reproduce import frame, judge, ledger, merge, parts, report, stamp, status, tables
from reproduce.presets import PRESETS

POINTS = 8  # of a cloud, in place of 2,048
CLOUDS = {"train": 4, "test": 2}
SHAPE = (2, 3, 4)
IDX = struct.pack(">4I", 0x0803, *SHAPE) + bytes(range(24))
ROW = Row(
    *("lenet5-digits-full-zo", "test_accuracy", 98.5, "%", "lenet5", "digits", "full-zo", "fp32"),
    *(0, 44, "note", {"epochs": 2, "lr": 1e-3, "start": "", "held_out": 0}, "c" * 40, False),
    *({"ezo": "0.1.0", "torch": "2", "python": "3"}, "a processor", "cpu", 1, "d" * 64, "training"),
)
STATE = {
    "case": "a",
    "settings": {"lr": 1e-3, "clip": None},
    "model": {"0.weight": torch.ones(2, 3), "0.bias": torch.arange(2)},
    "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}, "groups": [(1, 2.5, True)]},
    "step": 7,
}


def lines(chance: random.Random, *start: Row) -> bytes:
    """A file of rows, of which some are whole."""
    found = [row.json().encode() for row in start if chance.randrange(4)]
    for _ in range(chance.choice((0, 0, 1, 2, 3))):
        row = asdict(chance.choice((*start, ROW)))
        if chance.randrange(2):
            row["config"] = bend(chance, row["config"])
            found.append(json.dumps(row).encode())
        else:
            found.append(text(chance, row))
    return b"".join(line + chance.choice((b"\n",) * 8 + (b"\r\n", b"", b"\n\n")) for line in found)


# Files of data sets


def make_idx(chance: random.Random, folder: Path) -> Path:
    data = damage(chance, IDX, IDX) if chance.randrange(8) else IDX
    if chance.randrange(3) == 0:
        data = gzip.compress(data, 1)
        data = damage(chance, data, IDX) if chance.randrange(2) else data
        (folder / "f.gz").write_bytes(data)
    else:
        (folder / "f").write_bytes(data)
    return folder / "f"


def make_bomb(chance: random.Random, folder: Path) -> Path:
    """A gzip file of a few MB that holds 4 GB of zeros."""
    block = gzip.compress(bytes(1 << 20), 9)
    (folder / "f.gz").write_bytes(gzip.compress(IDX[: chance.randrange(len(IDX))]) + block * 4096)
    return folder / "f"


def make_zip(chance: random.Random, folder: Path) -> Path:
    names = (
        "a.txt",
        "b/c.txt",
        "b",
        "b/",
        "../evil",
        "/tmp/ezo-evil",
        "b/../../evil",
        "\\..\\evil",
    )
    names += ("C:/evil", "", ".", "..", "x" * 300, "ü\u2028", "con", "a\x00b", "a/" * 200)
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")  # of names that come twice
        for _ in range(chance.randrange(4)):
            info = zipfile.ZipInfo(chance.choice(names[:3] if chance.randrange(2) else names))
            info.compress_type = chance.choice((0, 8, 8, 12))
            info.external_attr = chance.choice((0, 0o120777 << 16, 0o40755 << 16, 0xFFFFFFFF))
            archive.writestr(info, chance.choice((b"", b"/etc/passwd", b"abc" * 100)))
    data = file.getvalue()
    if chance.randrange(3):
        data = damage(chance, data, data)
    elif chance.randrange(2):  # a flag or a method that another reader knows
        at = data.find(b"PK\x01\x02") + chance.choice((8, 10))
        data = data[:at] + bytes([chance.randrange(256)]) + data[at + 1 :]
    (folder / "a.zip").write_bytes(data)
    (folder / "out").mkdir()
    return folder


def _h5() -> Iterator[bytes]:
    """HDF5 files: whole, and with each thing that the format allows and ours must not hold."""
    x = np.linspace(-1, 1, 4 * POINTS * 3, dtype=np.float32).reshape(4, POINTS, 3)
    y = np.arange(4, dtype=np.uint8)[:, None]

    def file(fill: Callable[[Any], None]) -> bytes:
        held = io.BytesIO()
        with h5py.File(held, "w") as open_file:
            fill(open_file)
        return held.getvalue()

    def with_(data: Any = x, label: Any = y, **how: Any) -> bytes:
        def fill(f: Any) -> None:
            f.create_dataset("data", data=data, **how)
            f.create_dataset("label", data=label)

        return file(fill)

    yield with_()
    yield with_(chunks=(2, POINTS, 3), compression="gzip", shuffle=True, fletcher32=True)
    yield with_(x.astype(np.float64) * 1e300)
    yield with_(np.full_like(x, np.nan))
    yield with_(x.astype(np.complex64))
    yield with_(label=y.astype(np.uint64) + 2**63)
    yield with_(label=y.astype(np.int64) - 2)
    yield with_(label=y[:0])
    yield with_(label=np.array([["a"]] * 4, dtype="S1"))
    yield with_(x[0])

    def huge(f: Any) -> None:
        f.create_dataset("data", (10**8, POINTS, 3), "f4", chunks=(1024, POINTS, 3))
        f.create_dataset("label", (10**8, 1), "u1", chunks=(1024, 1))

    def linked(f: Any) -> None:
        f["data"], f["label"] = h5py.ExternalLink("/etc/hostname", "/data"), h5py.SoftLink("/label")

    def external(f: Any) -> None:
        f.create_dataset("data", (4, POINTS, 3), "f4", external=[("/proc/self/environ", 0, 4096)])
        f["label"] = y

    def virtual(f: Any) -> None:
        layout = h5py.VirtualLayout((4, POINTS, 3), "f4")
        layout[:] = h5py.VirtualSource("/tmp/other.h5", "data", (4, POINTS, 3))
        f.create_virtual_dataset("data", layout, fillvalue=0.0)
        f["label"] = y

    def groups(f: Any) -> None:
        f.create_group("data")
        f["label"] = y

    def scalar(f: Any) -> None:
        f["data"], f["label"] = x, 3

    def empty(f: Any) -> None:
        f["data"], f["label"] = h5py.Empty("f4"), h5py.Empty("u1")

    yield from map(file, (huge, linked, external, virtual, groups, scalar, empty, lambda f: None))


H5: list[bytes] = []


def make_h5(chance: random.Random, folder: Path) -> Path:
    H5.extend([] if H5 else _h5())
    data = chance.choice(H5 if chance.randrange(2) else H5[:2])
    (folder / "f.h5").write_bytes(damage(chance, data, H5[1]) if chance.randrange(4) else data)
    return folder / "f.h5"


def read_h5(path: Path) -> Any:
    known = modelnet40.LARGEST, modelnet40.CLOUDS
    modelnet40.LARGEST, modelnet40.CLOUDS = POINTS, CLOUDS
    try:
        return modelnet40._read_file(path, POINTS)
    finally:
        modelnet40.LARGEST, modelnet40.CLOUDS = known


def sane_h5(found: tuple[Any, Any]) -> bool:
    x, y = found
    n = len(y)
    small = n <= CLOUDS["train"] and x.shape == (n, POINTS, 3) and y.shape == (n,)
    return small and bool(np.isfinite(x).all()) and all(0 <= label < 40 for label in y)


# Checkpoints


def make_checkpoint(chance: random.Random, folder: Path) -> Path:
    tensors: dict[str, Tensor] = {}
    told = text(chance, checkpoint._encode(STATE, tensors))
    raw, header = b"", {}
    for name, tensor in tensors.items():
        data = tensor.numpy().tobytes()
        kind = {torch.float32: "F32", torch.int64: "I64"}[tensor.dtype]
        header[name] = {"dtype": kind, "shape": list(tensor.shape)}
        header[name]["data_offsets"] = [len(raw), len(raw) + len(data)]
        raw += data
    words = told.decode("utf-8", "replace")
    if chance.randrange(6) == 0:
        words = chance.choice(('{"list": [', '{"dict": [["a", ', '{"tuple":[')) * 20_000
        words += '{"value": 1}' + {"l": "]}", "d": "]]}", "t": "]}"}[words[2]] * 20_000
    header["__metadata__"] = {"ezo": words}
    found = text(chance, header) if chance.randrange(3) == 0 else json.dumps(header).encode()
    length = (
        len(found) if chance.randrange(20) else chance.choice((0, 2**63, 2**64 - 1, 100_000_000))
    )
    data = length.to_bytes(8, "little") + found + raw
    (folder / "c").write_bytes(damage(chance, data, data) if chance.randrange(6) == 0 else data)
    return folder / "c"


def sane_state(value: Any) -> bool:
    """Plain values, with tensors for leaves."""
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo += [*item, *item.values()]
        elif isinstance(item, (list, tuple)):
            todo += item
        elif not (item is None or isinstance(item, (bool, int, float, str, Tensor))):
            return False
    return True


# Rows, and the folders that hold them


def make_rows(chance: random.Random, folder: Path) -> Path:
    (folder / "rows.jsonl").write_bytes(lines(chance))
    return folder / "rows.jsonl"


def make_rows_gz(chance: random.Random, folder: Path) -> Path:
    data = gzip.compress(lines(chance), 1)
    (folder / "rows.jsonl.gz").write_bytes(
        damage(chance, data, data) if chance.randrange(2) else data
    )
    return folder / "rows.jsonl.gz"


def sane_rows(found: list[Row]) -> bool:
    """Rows whose values are numbers, and which come back when they are written."""
    assert all(row.value is None or math.isfinite(row.value) for row in found)
    data = "".join(row.json() + "\n" for row in found).encode("utf-8", "backslashreplace")
    again = [rows.parse(Path("again"), 1, line) for line in data.split(b"\n")[:-1]]
    return again == found


def make_preset(chance: random.Random, folder: Path) -> Path:
    asked = {"preset": "smoke", "experiments": ["digits"], "jobs": 2}
    (folder / "preset.json").write_bytes(text(chance, asked))
    return folder


def sane_asked(found: folders.Request) -> bool:
    known = PRESETS[found.preset].experiments
    return found.jobs >= 1 and all(name in known for name in found.experiments)


def make_folder(chance: random.Random, folder: Path) -> Path:
    """Of a reproduction, with a run that goes on."""
    if chance.randrange(2):
        make_preset(chance, folder)
    else:
        folders.Request("smoke").write(folder)
    kept = folder / chance.choice(("rows.jsonl", "rows.jsonl", "rows.jsonl.gz"))
    data = lines(chance, *ENDED)
    kept.write_bytes(gzip.compress(data) if kept.suffix == ".gz" else data)
    run = folder / "runs" / CASE
    run.mkdir(parents=True)
    (run / "rows.jsonl").write_bytes(lines(chance, *ENDED))
    (run / "source").write_bytes(
        damage(chance, b"0123456789ab\n") if chance.randrange(2) else b"0\n"
    )
    if chance.randrange(3) == 0:
        (folder / "cells").mkdir()
        (folder / "cells" / "memory-a-0.jsonl").write_bytes(lines(chance))
    return folder


CASE = next(iter(PRESETS["smoke"].runs().values()))[0].case
ENDED = (
    Row(CASE, "test_accuracy", 90.0, "%", "lenet5", "digits", "full-zo", seed=0, step=4),
    Row(CASE, "finished", 4, "step", "lenet5", "digits", "full-zo", seed=0, step=4, note="d" * 64),
)


def read_folder(folder: Path) -> Any:
    return status.lines(folder), parts.read(folder, {CASE: "training"})


def make_two(chance: random.Random, folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir()
        folders.Request(chance.choice(("smoke", "smoke", "quick"))).write(folder / name)
        (folder / name / "rows.jsonl").write_bytes(lines(chance, *ENDED))
    return folder


def read_judged(folder: Path) -> Any:
    """All that a report says of rows, but drawings."""
    found = folders.read_rows(folder)
    findings = judge.judge(found, True)
    judged = tables.judged((module.CLAIM for module in judge.claims()), findings)
    table = frame.frame(found)
    told = list(tables.accuracies(found)), list(tables.hypers(found)), tables.run_lines(found)
    covered = report._coverage(found, PRESETS["smoke"])
    return judged, told, covered, list(ledger.entries(table)), report._machine(found)


def read_two(folder: Path) -> list[Row]:
    with contextlib.redirect_stderr(io.StringIO()):
        merge.merge([folder / "a", folder / "b"], folder / "m")
    return folders.read_rows(folder / "m")


def source() -> str:
    """Which code is tried."""
    return stamp.digest()


def warm() -> None:
    """Once before inputs are tried: what is imported late."""
    import_torchvision()
    repr(torch.zeros(1))  # what a message that shows a tensor imports
    fuzz_states.warm()
    fuzz_files.warm()
    for target in TARGETS.values():
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception, SystemExit):
            target.read(target.make(random.Random(1), Path(folder)))


TARGETS = {
    target.name: target
    for target in (
        Target(
            "idx",
            2500,
            make_idx,
            lambda path: _files.read_idx(path, SHAPE),
            lambda x: x.shape == SHAPE and x.dtype == torch.uint8,
        ),
        Target(
            "idx.bomb", 1, make_bomb, lambda path: _files.read_idx(path, SHAPE), lambda x: False
        ),
        Target(
            "zip",
            400,
            make_zip,
            lambda folder: _files.unzip(folder / "a.zip", folder / "out"),
            lambda _: True,
        ),
        Target("hdf5", 300, make_h5, read_h5, sane_h5),
        Target("checkpoint", 1500, make_checkpoint, checkpoint.load, sane_state),
        Target("rows", 2200, make_rows, rows.read, sane_rows),
        Target("rows.gz", 900, make_rows_gz, rows.read, sane_rows),
        Target("preset", 900, make_preset, folders.asked, sane_asked),
        Target("folder", 150, make_folder, read_folder, lambda _: True),
        Target("merge", 100, make_two, read_two, sane_rows),
        Target("report", 40, make_folder, read_judged, lambda _: True),
        *WORDS,
        *STATES,
        *FILES,
    )
}
