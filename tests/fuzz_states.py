"""Input of states: optimisers' and models', runs' that go on, a device's, what is exported."""

import json
import random
import struct
import tempfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fuzz_input import Target, bend, damage
from fuzz_words import maker, run
from safetensors.torch import save_file
from torch import nn

import ezo
from ezo import checkpoint, cli, train
from ezo.export import as_safetensors, command
from ezo.export import state as device
from ezo.int8 import ElasticZO as Int8ElasticZO
from ezo.int8 import Int8Tensor, Loss, from_float, quantize
from ezo.nodes.feedback import Feedback
from ezo.rows import Row
from ezo.run import Run, build

RUNS = [
    Run("lenet5", "digits", method, precision, epochs=1, train_examples=64)
    for method, precision in (
        *(("elastic-1", "fp32"), ("elastic-2", "int8"), ("full-bp", "fp32")),
        *(("elastic-feedback-1", "fp32"), ("elastic-node-1", "fp32")),
    )
]
EXPORT = {
    "export": {
        "--model": ("lenet5", "pointnet", "mobilenet_v2"),
        "--method": ("full-zo", "elastic-2", "full-bp", "elastic-lean-3"),
        "--data": ("digits",),
        "--batch": ("32", "1"),
        "--seed": ("0", "7"),
        "--ram": ("256KiB", "1.5GiB", "5B"),
        "--from": ("none",),
        "--weights": ("none", "bad"),
    }
}


def bent(chance: random.Random, value: Any) -> Any:
    for _ in range(chance.choice((0, 1, 1, 2))):
        value = bend(chance, value)
    return value


# Runs


@cache
def begun(n: int) -> tuple[bytes, bytes]:
    """A run's rows and checkpoint, at its first step."""
    with tempfile.TemporaryDirectory() as folder:
        steps = train.train(RUNS[n], out=Path(folder))
        next(steps), next(steps)
        steps.close()
        names = ("rows.jsonl", "checkpoint.safetensors")
        rows, state = ((Path(folder) / name).read_bytes() for name in names)
        return rows, state


def make_resumed(chance: random.Random, folder: Path) -> tuple[int, Path]:
    out, n = folder / "out", chance.randrange(len(RUNS))
    return n, put_run(chance, out, n)


def put_run(chance: random.Random, out: Path, n: int) -> Path:
    out.mkdir()
    rows, state = begun(n)
    (out / "rows.jsonl").write_bytes(rows)
    path = out / "checkpoint.safetensors"
    path.write_bytes(state)
    kept = checkpoint.load(path)
    where = chance.randrange(3)
    if where == 0:  # else most bends would be of the model's tensors
        kept["optimizer"] = bent(chance, kept["optimizer"])
    elif where == 1:
        name = chance.choice(list(kept))
        kept[name] = bent(chance, kept[name])
    else:
        kept = bent(chance, kept)
    checkpoint.save(path, kept)
    return out


def read_resumed(tried: tuple[int, Path]) -> list[Row]:
    n, out = tried
    return list(train.train(RUNS[n], out=out))


# States in memory


def small() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.Linear(8, 3))


X, Y = torch.linspace(-1, 1, 24).view(6, 4), torch.arange(6) % 3


def in_floats(**how: Any) -> tuple[nn.Module, Any, Callable[[], Any]]:
    model = small()
    each = nn.functional.cross_entropy
    optimizer = ezo.ElasticZO(model, 1, **how)
    return model, optimizer, lambda: each(model(X), Y, reduction="none")


def in_integers(**how: Any) -> tuple[nn.Module, Any, Callable[[], Any]]:
    model, x = from_float(small(), headroom=15), quantize(X)
    return model, Int8ElasticZO(model, 1, **how), lambda: Loss(model(x), Y)


MAKERS: list[Callable[[], tuple[nn.Module, Any, Callable[[], Any]]]] = [
    lambda: in_floats(clip=5.0, queries=2),
    lambda: in_floats(nodes=True),
    lambda: in_floats(nodes=Feedback()),
    lambda: in_floats(bp_optimizer=lambda p: torch.optim.Adam(p, lr=1e-3)),
    lambda: in_integers(),
    lambda: in_integers(fraction=True, magnitude="absolute"),
]


@cache
def taken(n: int) -> dict[str, Any]:
    model, optimizer, closure = MAKERS[n]()
    optimizer.step(closure)
    return {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}


def make_state(chance: random.Random, folder: Path) -> tuple[int, Any]:
    n = chance.randrange(len(MAKERS))
    state = taken(n)
    name = chance.choice(("model", "optimizer", "optimizer"))
    return n, {**state, name: bent(chance, state[name])}


def read_state(tried: tuple[int, Any]) -> Any:
    n, state = tried
    model, optimizer, closure = MAKERS[n]()
    with checkpoint.expected(Path("a"), "a state"):
        checkpoint.restore(model, optimizer, state)
    optimizer.step(closure)
    return optimizer.state_dict()


# Export


def make_export(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
    tried: tuple[Path, list[str]] = maker(EXPORT)(chance, folder)
    kind = chance.randrange(4)
    if kind == 0:
        put_run(chance, folder / "out", 1 if chance.randrange(8) else 0)
        return folder, ["export", "--from", "out", "--data", "digits"]
    if kind == 1:
        save_file(build(RUNS[0], 10, 1).state_dict(), folder / "w")
        data = (folder / "w").read_bytes()
        head = 8 + int.from_bytes(data[:8], "little")
        (folder / "w").write_bytes(damage(chance, data[:head], data[:head]) + data[head:])
        return folder, ["export", "--weights", "w", "--data", "digits"]
    return tried


def read_export(tried: tuple[Path, list[str]]) -> int:
    with (
        mock.patch.object(command, "splits", lambda *_, **__: []),
        mock.patch.object(command, "table", lambda *_: ""),
        mock.patch.object(command, "describe", lambda *_: None),
    ):
        return run(cli.main, *tried)


@cache
def exported() -> tuple[Any, Any, Int8Tensor]:
    model = from_float(small(), headroom=15)
    return model, Int8ElasticZO(model, 1, fraction=True), quantize(X)


@cache
def saved() -> bytes:
    return device.save(*exported())


def make_device(chance: random.Random, folder: Path) -> bytes:
    data = saved()[:-4]
    if chance.randrange(3):  # with a checksum that is right
        data = damage(chance, data, data)
        return data + struct.pack("<I", zlib.crc32(data))
    return damage(chance, saved(), data)


@cache
def written() -> bytes:
    model, _, x = exported()
    with tempfile.TemporaryDirectory() as folder:
        as_safetensors.write(model, x, Path(folder) / "n")
        return (Path(folder) / "n").read_bytes()


def make_network(chance: random.Random, folder: Path) -> Path:
    path, data = folder / "n.safetensors", written()
    length = int.from_bytes(data[:8], "little")
    if chance.randrange(2):
        header = json.loads(data[8 : 8 + length])
        told = bent(chance, json.loads(header["__metadata__"]["ezo"]))
        header["__metadata__"]["ezo"] = json.dumps(told)
        text = json.dumps(bent(chance, header)).encode("utf-8", "backslashreplace")
        path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])
    else:
        path.write_bytes(damage(chance, data, data))
    return path


def read_device(body: bytes) -> int:
    model, optimizer, x = exported()
    device.load(body, model, optimizer, x)
    return int(optimizer.state_dict()["ezo"]["steps"])


def warm() -> None:
    """What is imported late, and made once."""
    for n in range(len(MAKERS)):
        read_state((n, taken(n)))
    for n in range(len(RUNS)):
        begun(n)
        list(train.train(RUNS[n]))
    saved(), written()


STATES = (
    Target("resume", 5, make_resumed, read_resumed, lambda found: found[-1].metric == "finished"),
    Target("state", 40, make_state, read_state, lambda state: state["ezo"]["steps"] >= 0),
    Target("export", 8, make_export, read_export, lambda status: status == 0),
    Target("device", 40, make_device, read_device, lambda steps: 0 <= steps < 2**32),
    Target(
        "exported", 40, make_network, as_safetensors.read, lambda found: found[0]["format"] == 1
    ),
)
