"""A checkpoint comes back bit for bit, without pickle, and a kill leaves a whole one."""

import hashlib
import json
import math
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ezo import checkpoint


def same(a: Any, b: Any) -> bool:
    """Equal in types, structure and bits."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist()
    if isinstance(a, dict):
        pairs = zip(a.items(), b.items(), strict=True)
        return len(a) == len(b) and all(same(x, y) for x, y in pairs)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


TENSORS = {
    "float32": torch.tensor([[1.5, -0.0], [3e-42, float("inf")]]),
    "float64": torch.tensor([1 / 3], dtype=torch.float64),
    "bfloat16": torch.tensor([1.0, -2.5], dtype=torch.bfloat16),
    "float16": torch.tensor([0.1], dtype=torch.float16),
    "int8": torch.tensor([-128, 127], dtype=torch.int8),
    "int64": torch.tensor([2**62, -1]),
    "uint8": torch.arange(5, dtype=torch.uint8),
    "bool": torch.tensor([True, False]),
    "0-dim": torch.tensor(7),
    "empty": torch.empty(0, 3),
    "transposed": torch.arange(6.0).reshape(2, 3).T,
}


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_come_back_bit_for_bit(tmp_path: Path, name: str) -> None:
    checkpoint.save(tmp_path / "c", TENSORS[name])
    assert same(checkpoint.load(tmp_path / "c"), TENSORS[name])


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        {"value": {"tensor": [1, "dict"]}},
        {0: {"momentum": torch.ones(2)}, 1: {}, "1": (), "": None},
        {"nested": [(1, (2.5, [None, True, "Zürich \u2028"])), []]},
        [0.1 + 0.2, 1e-310, -0.0, 2**70, True, False, 1, 1.0],
    ],
)
def test_nested_values_come_back_with_their_types(tmp_path: Path, state: Any) -> None:
    checkpoint.save(tmp_path / "c", state)
    assert same(checkpoint.load(tmp_path / "c"), state)


def test_infinity_and_nan_come_back(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c", [math.inf, -math.inf, math.nan])
    high, low, nan = checkpoint.load(tmp_path / "c")
    assert high == math.inf and low == -math.inf and math.isnan(nan)


def test_tied_tensors_come_back_equal_and_stay_tied_in_the_model(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model.get_submodule("1").weight = model[0].weight
    checkpoint.save(tmp_path / "c", dict(model.state_dict()))
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(checkpoint.load(tmp_path / "c"))
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert model[0].weight is model[1].weight


def test_an_optimizers_state_comes_back(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    checkpoint.save(tmp_path / "c", optimizer.state_dict())
    loaded = checkpoint.load(tmp_path / "c")
    assert same(loaded, optimizer.state_dict())
    torch.optim.SGD(nn.Linear(3, 2).parameters(), momentum=0.9).load_state_dict(loaded)


def test_saving_takes_a_copy_and_needs_no_gradient(tmp_path: Path) -> None:
    parameter = nn.Parameter(torch.ones(2))
    checkpoint.save(tmp_path / "c", {"p": parameter})
    loaded = checkpoint.load(tmp_path / "c")["p"]
    assert type(loaded) is Tensor and not loaded.requires_grad
    assert torch.equal(loaded, parameter.detach())


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j, print])
def test_what_has_no_plain_form_is_refused_and_the_old_file_stays(
    tmp_path: Path, value: object
) -> None:
    checkpoint.save(tmp_path / "c", {"step": 1})
    with pytest.raises(TypeError, match=type(value).__name__):
        checkpoint.save(tmp_path / "c", {"value": value})
    assert checkpoint.load(tmp_path / "c") == {"step": 1}


def test_the_file_holds_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("pickle was used")

    for module, names in ((pickle, ("dumps", "loads", "dump", "load")), (torch, ("save", "load"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    checkpoint.save(tmp_path / "c", {"x": torch.ones(2), 3: (None, "text")})
    assert same(checkpoint.load(tmp_path / "c"), {"x": torch.ones(2), 3: (None, "text")})
    content = (tmp_path / "c").read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert set(header) == {"__metadata__", "0"}


def damage_nothing_left(content: bytes) -> bytes:
    return b""


def damage_cut_header(content: bytes) -> bytes:
    return content[:20]


def damage_cut_tensors(content: bytes) -> bytes:
    return content[:-4]


def damage_other_text(content: bytes) -> bytes:
    return b"not a checkpoint " * 20


@pytest.mark.parametrize(
    "damage", [damage_nothing_left, damage_cut_header, damage_cut_tensors, damage_other_text]
)
def test_a_damaged_file_is_named_with_the_fix(tmp_path: Path, damage: Any) -> None:
    path = tmp_path / "run.safetensors"
    checkpoint.save(path, {"x": torch.ones(100)})
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"run\.safetensors: expected a checkpoint.*remove it"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "metadata", [None, {"format": "pt"}, {"ezo": "{"}, {"ezo": "[]"}, {"ezo": '{"tensor": "9"}'}]
)
def test_a_foreign_file_is_named_with_the_fix(
    tmp_path: Path, metadata: dict[str, str] | None
) -> None:
    path = tmp_path / "run.safetensors"
    save_file({"x": torch.ones(2)}, path, metadata=metadata)
    with pytest.raises(ValueError, match=r"run\.safetensors: expected a checkpoint.*remove it"):
        checkpoint.load(path)


def test_a_file_that_cannot_be_written_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"gone/c\.ezo-tmp: expected a place to write .*; make room"):
        checkpoint.save(tmp_path / "gone" / "c", {"step": 1})


@pytest.mark.parametrize("moment", ["in the middle of the write", "before the replacement"])
def test_a_kill_while_saving_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    path = tmp_path / "c"
    checkpoint.save(path, {"step": 1, "x": torch.ones(3)})

    def killed(*arguments: Any, **_: Any) -> None:
        if moment == "in the middle of the write":
            Path(arguments[1]).write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if moment == "in the middle of the write":
            patch.setattr(checkpoint, "save_file", killed)
        else:
            patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.save(path, {"step": 2, "x": torch.zeros(3)})
    assert same(checkpoint.load(path), {"step": 1, "x": torch.ones(3)})
    checkpoint.save(path, {"step": 3})
    assert checkpoint.load(path) == {"step": 3}
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_digest_is_of_names_in_order_and_bytes() -> None:
    tensors = {"b": torch.tensor([1.0, 2.0]), "a": torch.tensor(3)}
    expected = hashlib.sha256()
    expected.update(b"a" + (3).to_bytes(8, "little"))
    expected.update(b"b" + bytes.fromhex("0000803f00000040"))
    assert checkpoint.digest(tensors) == expected.hexdigest()
    assert checkpoint.digest(dict(reversed(tensors.items()))) == expected.hexdigest()


@pytest.mark.parametrize("name", TENSORS)
def test_digest_takes_every_kind_of_tensor_and_sees_its_name(name: str) -> None:
    tensor = TENSORS[name]
    assert len(checkpoint.digest({"x": tensor})) == 64
    assert checkpoint.digest({"x": tensor}) != checkpoint.digest({"y": tensor})
    assert checkpoint.digest({"x": tensor}) == checkpoint.digest({"x": tensor.clone()})


def test_digest_sees_one_bit() -> None:
    x = torch.tensor([0.0])
    assert checkpoint.digest({"x": x}) != checkpoint.digest({"x": -x})
