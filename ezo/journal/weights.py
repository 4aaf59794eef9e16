"""A model's weights by name, each tensor once, and files of them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ezo import checkpoint
from ezo.files import replaced, unwritten


def entries(model: nn.Module) -> dict[str, tuple[Tensor, list[str]]]:
    """What a model's state dict holds, by the first of a tensor's names, with all of them."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor):
            found.setdefault(id(tensor), (tensor, []))[1].append(name)
    return {names[0]: (tensor, names) for tensor, names in found.values()}


def digest(tensors: Mapping[str, Tensor], names: Iterable[Iterable[str]]) -> str:
    """`ezo.checkpoint.digest` of those that have these names, by the first of each one's.

    Raises:
        LookupError: none of a tensor's names is there.
    """
    return checkpoint.digest({(of := list(own))[0]: tensors[_there(tensors, of)] for own in names})


def _there(tensors: Mapping[str, Tensor], names: list[str]) -> str:
    found = next((name for name in names if name in tensors), None)
    if found is None:
        raise LookupError(f"expected a tensor {' or '.join(names)}, got none")
    return found


def load(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; of a checkpoint of `ezo train`, its model's.

    Raises:
        ValueError: the file is neither, or damaged.
        OSError: it can't be read.
    """
    from safetensors import SafetensorError, safe_open

    if path.is_dir():
        raise ValueError(
            f"{path}: expected weights in a safetensors file, got a folder; name a file, as the "
            ".init.safetensors beside a journal"
        )
    try:
        with safe_open(path, framework="pt") as file:
            if "ezo" not in (file.metadata() or {}):
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(
            f"{path}: expected weights in a safetensors file, got another or a damaged one "
            f"({error}); name one"
        ) from error
    state: Any = checkpoint.load(path)
    if not isinstance(state, dict) or "model" not in state:
        raise ValueError(f"{path}: expected a checkpoint of a run, got one without a model")
    found: dict[str, Tensor] = state["model"]
    return found


def save(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all.

    Raises:
        OSError: the file can't be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    own = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as beside:
            save_file(own, beside, metadata={"format": "pt"})
    except OSError as error:
        raise unwritten(path, error) from error
    except SafetensorError as error:
        raise OSError(
            f"{path}: expected a place to write weights, got: {error}; make room, or give another"
        ) from error


def as_bytes(tensor: Tensor) -> bytes:
    """A tensor's numbers in row-major order."""
    return tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
