"""Checkpoints without pickle: one safetensors file, whose header holds the rest as JSON.

One file, written beside and moved into place, so that a kill at any moment leaves either the
old checkpoint or the new one.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import check
from ezo.files import TEMPORARY, remove

AGAIN = "remove its folder to start that run again"


def save(path: Path, state: Any) -> None:
    """Write nested dicts, lists, numbers, strings, None and tensors.

    Raises:
        OSError: the file can't be written.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(state, tensors))
    beside = path.with_name(
        path.name + TEMPORARY
    )  # a folder, so that all that a kill leaves is ours
    try:
        remove(beside)
        beside.mkdir()
        save_file(tensors, beside / path.name, metadata={"ezo": text})
        os.replace(beside / path.name, path)
    except (SafetensorError, OSError) as error:
        raise OSError(
            f"{beside}: expected a place to write a checkpoint, got: {error}; make room, or give "
            "another --out"
        ) from error
    finally:
        remove(beside)


def load(path: Path) -> Any:
    """Read what `save` wrote; tensors come on CPU.

    Raises:
        ValueError: the file is no checkpoint of ours, or damaged.
        OSError: the file can't be read.
    """
    with reading(path, "a checkpoint that ezo wrote", "remove it to start this run again"):
        metadata, found = opened(path)
        return _decode(json.loads(metadata["ezo"]), found)


def tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, on CPU.

    Raises:
        ValueError: the file is none, or damaged.
        OSError: the file can't be read.
    """
    with reading(path, "a safetensors file", "give one that is whole"):
        return opened(path)[1]


def opened(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """A safetensors file's metadata and tensors, within `reading`."""
    with safe_open(path, framework="pt") as file:
        found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)
        return file.metadata() or {}, found


@contextlib.contextmanager
def reading(path: Path, what: str, fix: str) -> Iterator[None]:
    """Within, a safetensors file is read as ``what``.

    Raises:
        ValueError: it is not that; the message has the ``fix``.
        OSError: it can't be read.
    """
    try:
        yield
    except OSError as error:
        raise type(error)(f"expected {what}, got: {error}; name one that can be read") from error
    except (
        SafetensorError,
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,  # also of too deep a nesting
        TypeError,
        ValueError,
    ) as error:
        raise ValueError(
            f"{path}: expected {what}, got a damaged or foreign file ({error}); {fix}"
        ) from error


@contextlib.contextmanager
def expected(path: Path, what: str, fix: str = AGAIN) -> Iterator[None]:
    """Within, what a checkpoint holds is used as ``what``.

    Raises:
        ValueError: it is not that.
    """
    try:
        yield
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"{path}: expected {what}, got another or a damaged one ({type(error).__name__}: "
            f"{told}); {fix}"
        ) from error


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for a value: dicts as lists of pairs, for JSON's keys are text only."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _encode(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_encode(item, tensors) for item in value]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(
        f"expected plain values and tensors in a checkpoint, got {type(value).__name__}"
    )


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _decode(item, tensors) for key, item in content}
    if kind in ("list", "tuple"):
        items = [_decode(item, tensors) for item in content]
        return tuple(items) if kind == "tuple" else items
    if kind != "value" or isinstance(content, (dict, list)):
        raise ValueError(f"a '{kind:.20}' that is none")
    return content


def with_exponents(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """An integer network's state dict of before it held exponents, with those of the ``model``.

    The model is built as that network was. Any other state dict comes back as it is.
    """
    own = model.state_dict()
    exponents = {name: own[name] for name in own if is_exponent(name, own)}
    return state if exponents.keys() & state.keys() else {**state, **exponents}


def restore(model: nn.Module, optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Give a run's model and optimiser what its checkpoint holds of them.

    Raises:
        ValueError, TypeError, LookupError: it is another's.
    """
    model.load_state_dict(with_exponents(state["model"], model))
    optimizer.load_state_dict(state["optimizer"])
    _expect_state(optimizer)


def _expect_state(optimizer: Optimizer) -> None:
    """Raises:
    TypeError: an optimiser's state that was loaded does not fit its parameters.
    """
    for one in filter(None, (optimizer, getattr(optimizer, "bp_optimizer", None))):
        if len({frozenset(kept) for kept in one.state.values()}) > 1:
            raise TypeError("the states of two parameters hold other things")
        for p, kept in one.state.items():
            for name, value in kept.items():
                shape = value.shape if isinstance(value, Tensor) else None
                counts = name == "step" and check.finite(value)
                if value is not None and shape != p.shape and not counts:
                    raise TypeError(f"{name} is {value!r:.40}")


def file_digest(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256.

    Raises:
        OSError: it can't be read.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError as error:
        raise type(error)(
            f"expected a safetensors file, got: {error}; name one that can be read"
        ) from error


def digest(tensors: dict[str, Tensor]) -> str:
    """SHA-256 of tensors' names and bytes, hexadecimal.

    Exponents of int8 tensors, which training does not change, and those of calibration are left
    out, so that a digest is the same as of a state dict of before they belonged to it.
    """
    sha = hashlib.sha256()
    for name in sorted(tensors):
        if is_exponent(name, tensors):
            continue
        sha.update(name.encode())
        sha.update(
            tensors[name].detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
        )
    return sha.hexdigest()


def is_exponent(name: str, tensors: dict[str, Tensor]) -> bool:
    """Whether a tensor of a state dict is an exponent: of int8 mantissas, or of calibration."""
    if name.endswith("static_exponents"):
        return is_exponent(f"{name.removesuffix('static_exponents')}weight_exponent", tensors)
    mantissas = tensors.get(name.removesuffix("_exponent"))
    return name.endswith("_exponent") and mantissas is not None and mantissas.dtype == torch.int8
