"""Input of the user's own files: data of every form, journals, the gate's cells."""

import csv
import io
import json
import math
import random
import struct
import tempfile
import warnings
import zipfile
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fuzz_input import NUMBERS, Target, bend, damage, text
from PIL import Image
from torch import nn

import ezo
from bench import gate
from bench.workload import Workload
from ezo import int8
from ezo.data import _own
from ezo.data._dataset import Dataset
from ezo.journal import Journal, columns, records, replay
from ezo.journal.command import info
from ezo.journal.replay import Replayed

# Data


def sane_data(found: Dataset) -> bool:
    """Finite numbers, and labels of the classes."""
    parts = ((found.train_x, found.train_y), (found.test_x, found.test_y))
    return found.classes >= 2 and all(
        len(x) == len(y) > 0
        and bool(torch.isfinite(x).all())
        and 0 <= int(y.min()) <= int(y.max()) < found.classes
        for x, y in parts
    )


def _array(chance: random.Random, labels: bool) -> Any:
    if chance.randrange(4):
        return np.arange(10) % 2 if labels else np.arange(40.0).reshape(10, 4)
    n = chance.choice((10, 10, 10, 0, 1, 11))
    shape = chance.choice(
        ((n, 4), (n, 8, 8), (n, 3, 8, 8), (n, 8, 8, 1), (n, 5, 3), (n,), (), (n, 0))
    )
    kind = chance.choice(
        ("f4", "f8", "u1", "i8", "f2", "c8", "?", "M8[s]", "S3", "U3", "O", "f4", "f4")
    )
    if labels:
        shape = chance.choice(((n,), (n,), (n, 1), (n, 10), ()))
        kind = chance.choice(("i8", "u1", "f4", "U3", "S3", "O", "?", "i8", "i8"))
    values = np.arange(math.prod(shape)).reshape(shape) % (2 if labels else 7)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = values.astype(kind)
        if kind in ("f4", "f8", "f2") and found.size and chance.randrange(4) == 0:
            found.flat[0] = chance.choice((np.nan, np.inf, 1e300, 0.5))
    return found


def make_npz(chance: random.Random, folder: Path) -> Path:
    names = chance.choice(
        (("x", "y"), ("x", "y"), ("train_x", "train_y", "test_x", "test_y"), ("x",))
    )
    arrays = {name: _array(chance, name.endswith("y")) for name in names}
    if chance.randrange(8) == 0:
        arrays |= {chance.choice(("../y", "x_train", "a" * 300, "ü")): np.ones(3)}
    file = io.BytesIO()
    (np.savez_compressed if chance.randrange(2) else np.savez)(file, **arrays)
    data = file.getvalue()
    if chance.randrange(8) == 0:  # an array whose header says more than it holds
        head = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**11}, 4), }}\n".encode()
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            npy = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + bytes(64)
            archive.writestr("x.npy", npy)
        data = file.getvalue()
    (folder / "d.npz").write_bytes(damage(chance, data, data) if chance.randrange(2) else data)
    return folder / "d.npz"


def make_csv(chance: random.Random, folder: Path) -> Path:
    rows: list[list[str]] = [["a", "b", "label"]] if chance.randrange(2) else []
    rows += [[str(i % 3), str(-i / 3), "cat" if i % 2 else "dog"] for i in range(20)]
    for _ in range(chance.choice((0, 0, 1, 2))):
        row = chance.choice(rows)
        row[chance.randrange(len(row))] = chance.choice(
            (*NUMBERS, "a,b", '"', "a\nb", "x" * 200_000)
        )
    file = io.StringIO(newline="")
    csv.writer(file, delimiter=chance.choice(",,,;\t")).writerows(rows)
    data = file.getvalue().encode("utf-8", "surrogatepass")
    (folder / "d.csv").write_bytes(damage(chance, data, data) if chance.randrange(2) else data)
    return folder / "d.csv"


def make_images(chance: random.Random, folder: Path) -> str:
    root = folder / "images"
    mode = chance.choice(("L", "RGB", "1", "P", "RGBA", "I;16", "CMYK"))
    places = chance.choice(
        (("a", "b"), ("a", "b"), ("train/a", "train/b", "test/a"), (".",), ("a",))
    )
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        for i in range(chance.choice((6, 6, 6, 1, 0))):
            size = (8, 8) if chance.randrange(20) else (chance.choice((1, 9)), 8)
            file = io.BytesIO()
            kind = "TIFF" if mode in ("I;16", "CMYK") else "PNG"
            Image.new(mode, size, color=chance.randrange(2)).save(file, kind)
            data = file.getvalue()
            if chance.randrange(6) == 0:
                data = _picture(chance, data)
            (root / place / f"{i}.{'tif' if kind == 'TIFF' else 'png'}").write_bytes(data)
    if chance.randrange(4) == 0:
        (root / chance.choice(("notes.txt", "a/x.jpg", "c"))).parent.mkdir(
            parents=True, exist_ok=True
        )
        (root / "notes.txt").write_text("no image")
    return f"{root}{chance.choice(('', '', '@4', '@0', '@99999', '@-1', '@x'))}"


def _picture(chance: random.Random, data: bytes) -> bytes:
    """Damaged, or a small file that says it has very many pixels."""
    if chance.randrange(3) or data[:4] != b"\x89PNG":
        return damage(chance, data, data)
    side = chance.choice((10**4, 10**5, 2**31 - 1))
    head = b"IHDR" + struct.pack(">2I", side, side) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


# Journals


@cache
def journals() -> list[tuple[bytes, dict[str, torch.Tensor]]]:
    """What runs of a few steps wrote, and the weights that they began with."""
    return [_run("fp32", 0), _run("fp32", 1), _run("int8", 0)]


def _run(precision: str, bp: int) -> tuple[bytes, dict[str, torch.Tensor]]:
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        model: Any = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        x, y = torch.randn(10, 6), torch.arange(10) % 3
        if precision == "int8":
            model, batch = int8.from_float(model.eval()), int8.quantize(x)
            optimizer: Any = int8.ElasticZO(model, bp)
        else:
            optimizer = ezo.ElasticZO(model, bp, lr=1e-3)

        def closure() -> Any:
            if precision == "int8":
                return int8.Loss(model(batch), y)
            return nn.functional.cross_entropy(model(x), y)

        init = {name: t.clone() for name, t in model.state_dict().items()}
        path = Path(folder) / "j"
        with Journal(path, model, optimizer) as journal:
            for step in range(12):
                optimizer.step(closure)
                if step == 5:
                    journal.mark()
        return path.read_bytes(), init


def make_journal(chance: random.Random, folder: Path) -> tuple[int, Path]:
    n = chance.randrange(len(journals()))
    data = journals()[n][0]
    path = folder / "j.ezoj"
    if chance.randrange(3) == 0:
        path.write_bytes(damage(chance, data, data))
        return n, path
    whole = folder / "whole"
    whole.write_bytes(data)
    found, _ = records.read(whole)
    crc, out = zlib.crc32(records.START), records.START
    which = chance.randrange(len(found))
    for i, record in enumerate(found):  # with checksums that are right
        kind, body = record.kind, record.body
        if i == which:
            kind, body = _bent(chance, kind, body)
        for _ in range(chance.choice((1,) * 12 + (0, 2))):
            packed, crc = records.pack(kind, body, crc)
            out += packed
    path.write_bytes(out)
    whole.unlink()
    return n, path


def _bent(chance: random.Random, kind: str, body: bytes) -> tuple[str, bytes]:
    """Another record: of another kind, with other numbers, columns or words."""
    where = chance.randrange(5)
    if where == 0:
        return chance.choice("HSCTEX"), body
    if where == 1:
        return kind, damage(chance, body, body)
    if kind in "HSE":
        told = records.value(body)
        for _ in range(chance.choice((1, 1, 2))):
            told = bend(chance, told)
        words = json.dumps(told).encode("utf-8", "backslashreplace")
        words = words if chance.randrange(4) else text(chance, told)
        bomb = chance.randrange(20) == 0
        return kind, zlib.compress(b" " * (1 << 28) if bomb else words)
    parts = [bytes(part) for part in columns.parted(body)]
    at = chance.randrange(len(parts))
    if where == 2:
        parts[at] = damage(chance, parts[at], parts[-1])
    elif where == 3:
        parts[at] = parts[at][:1] + zlib.compress(bytes(chance.choice((1, 1 << 10, 1 << 28))))
    elif kind == "C":
        numbers = [chance.choice((0, 1, 12, 2**15, 2**31)) for _ in range(4)]
        parts[0] = struct.pack("<QIHB", numbers[0], numbers[1], numbers[2] % 2**16, numbers[3] % 9)
    else:
        parts[1] = records.text(bend(chance, records.value(parts[1])))
    return kind, columns.joined(parts)


def read_journal(tried: tuple[int, Path]) -> Replayed:
    n, path = tried
    found, _ = records.read(path)
    with records.understood(path):
        info(found)
    return replay(path, journals()[n][1])


def sane_replay(found: Replayed) -> bool:
    """Ended as the run did, or as far as it says."""
    return found.whole is not False or bool(found.note)


# Cells of the gate

CELL = {"model": "lenet5", "method": "elastic-1", "batch_size": 8, "precision": "int8", "chunk": 0}


def make_cells(chance: random.Random, folder: Path) -> Path:
    lines = []
    for _ in range(chance.choice((0, 1, 2, 3))):
        cell = {**CELL} if chance.randrange(2) else bend(chance, CELL)
        lines.append(json.dumps(cell).encode() if chance.randrange(2) else text(chance, cell))
    data = b"\n".join(lines)
    path = folder / "cells.jsonl"
    path.write_bytes(damage(chance, data, data) if chance.randrange(4) == 0 else data)
    return path


def sane_cells(found: list[Workload]) -> bool:
    """Cells that have a name and could be prepared."""
    return bool(found) and all(
        isinstance(cell.model, str)
        and isinstance(cell.method, str)
        and type(cell.batch_size) is int
        and cell.batch_size >= 1
        and type(cell.threads) is int
        and cell.threads >= 1
        and cell.name
        for cell in found
    )


def warm() -> None:
    """What is imported late, and made once."""
    Image.init()
    for n, (data, _) in enumerate(journals()):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "j").write_bytes(data)
            read_journal((n, Path(folder) / "j"))


FILES = (
    Target("npz", 120, make_npz, lambda path: _own.load(str(path)), sane_data),
    Target("csv", 120, make_csv, lambda path: _own.load(str(path)), sane_data),
    Target("images", 60, make_images, _own.load, sane_data),
    Target("journal", 200, make_journal, read_journal, sane_replay),
    Target("cells", 200, make_cells, gate.read_cells, sane_cells),
)
