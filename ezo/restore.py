"""A run's folder, read again: its settings, its model with the weights, its inputs' scale."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ezo import catalogue, check, checkpoint
from ezo.data import Dataset, Scale
from ezo.precisions import Step
from ezo.rows import json_types
from ezo.run import Run, Settled, build, tried

NAME = "checkpoint.safetensors"


@dataclass(frozen=True)
class Restored:
    """What a run left.

    Attributes:
        step: of its precision, with its model at its weights, and its inputs' encoding.
        labels: names of the classes; numbers where they have none.
        scale: of the user's own data, else None.
        shape: of one example.
    """

    settled: Settled
    step: Step
    labels: tuple[str, ...]
    scale: Scale | None
    shape: tuple[int, ...]


def inputs_of(data: Dataset) -> dict[str, Any]:
    """What a checkpoint holds of the inputs, so that others can be taken alike."""
    scale = data.scale
    return {
        "classes": data.classes,
        "labels": list(data.labels),
        "scale": None if scale is None else [list(scale.mean), list(scale.std)],
        "shape": list(data.train_x.shape[1:]),
        "largest": data.train_x.abs().max().item(),  # an integer precision's exponent
    }


def restored(folder: Path, model: str | None, device: str = "cpu") -> Restored:
    """The run in a folder.

    Args:
        model: needed where the run's is ``package.module:function``: what a file says is no
            reason to run code.

    Raises:
        ValueError: there is no run, or a damaged one, or one of another model.
    """
    path = folder / NAME
    if not path.exists():
        raise ValueError(
            f"expected a run's folder, with {NAME}, got {folder}; give the --out of `ezo train`"
        )
    state = checkpoint.load(path)
    with checkpoint.expected(path, "the state of a run"):
        settings, inputs = dict(state.get("settings", {})), dict(state.get("inputs", {}))
    if not inputs or not settings:
        raise ValueError(
            f"{path}: expected a checkpoint that says how examples are scaled, got one of before "
            "there were predictions; train again"
        )
    if inputs.get("scale"):  # the data itself need not be there any more
        settings["data"] = os.path.join(".", str(settings.get("data")))
    settled = settled_of(path, settings, model)
    with checkpoint.expected(path, f"the state of {settled.case}"):
        return _restored(settled, state, inputs, torch.device(device))


def _restored(
    settled: Settled, state: dict[str, Any], inputs: dict[str, Any], device: torch.device
) -> Restored:
    run, shape = settled.run, tuple(map(int, inputs["shape"]))
    classes = int(inputs["classes"])
    image = len(shape) == 3
    network = build(
        settled, classes, shape[0 if image else -1], (shape[1], shape[2]) if image else None
    )
    if settled.files["model"].INPUT is None:
        tried(network, torch.zeros(2, *shape), run.seed)
    step: Step = settled.files["precision"].make_step(
        run.precision, network, run.method, run.hyper, run.seed, device=device
    )
    step.calibrate(torch.full((1, *shape), float(inputs["largest"])))
    checkpoint.restore(step.model, step.optimizer, state)
    labels = tuple(map(str, inputs["labels"] or range(classes)))
    scale = inputs["scale"] and Scale(*(tuple(map(float, of)) for of in inputs["scale"]))
    if len(labels) != classes:
        raise ValueError(f"{len(labels)} labels of {classes} classes")
    return Restored(settled, step, labels, scale or None, shape)


def settled_of(path: Path, settings: Mapping[str, Any], model: str | None) -> Settled:
    """The run that a checkpoint's settings name; what it started from counts no more.

    Raises:
        ValueError: they are no settings, or name a model that lies elsewhere than ``model`` says.
    """
    named = str(settings.get("model"))
    if ":" in named and named != model:
        raise ValueError(
            f"{path}: expected --model {named}, the run's, got {model or 'none'}; give it to say "
            "that its code may run"
        )
    with checkpoint.expected(path, "the settings of a run"):
        own = {k: v for k, v in settings.items() if k not in ("start", "weights")}
        kind = catalogue.find("precision", own["precision"]).HYPER
        types = {field.name: json_types(field.type) for of in (Run, kind) for field in fields(of)}
        for name, value in own.items():
            if type(value) not in types[name]:
                raise TypeError(f"{name} is {value!r:.40}")
        of_hyper = {field.name for field in fields(kind)}
        hyper = kind(**{name: value for name, value in own.items() if name in of_hyper})
        rest = {name: value for name, value in own.items() if name not in of_hyper}
        return Run(**rest, hyper=hyper).settled()


def refuse_another(
    path: Path, state: Mapping[str, Any], settled: Settled, data_checksum: str
) -> None:
    """Raises:
    ValueError: a checkpoint is of another run, or of other data.
    """
    ours = {"case": settled.case, "data_checksum": data_checksum, **settled.settings}
    with checkpoint.expected(path, "the state of a run"):
        settings = state.get("settings", {})  # checkpoints of old hold none
        theirs = {"case": state["case"], "data_checksum": state["data_checksum"], **settings}
    differing = [name for name in theirs if theirs[name] != ours.get(name)]
    if differing:
        named = [name for name in differing if name in settings] or differing
        raise ValueError(
            f"{path}: expected {', '.join(f'{name} {ours.get(name)}' for name in named)}, "
            f"got {', '.join(f'{name} {theirs[name]}' for name in named)}: another run "
            "or other data; give another --out, or remove the folder"
        )


def expect_counter(name: str, value: Any, kind: type) -> None:
    """Raises:
    TypeError: a checkpoint can't hold that; a sum of integer losses stands for a float.
    """
    kinds = (int, float) if kind is float else (kind,)
    if type(value) not in kinds or not (kind is bool or check.finite(value)) or value < 0:
        raise TypeError(f"{name} is {value!r:.40}")
    if kind is int and value > check.LARGEST:
        raise TypeError(f"{name} is {value!r:.40}, which 64 bits don't hold")


def forget(path: Path, case: str) -> None:
    """Remove the rows of a run whose checkpoint never came; the last may be half written.

    Raises:
        ValueError: there are others in the file.
    """
    if not path.exists():
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        others = sorted({str(of) for of in map(_case_of, file)} - {case, ""})
    if others:
        raise ValueError(
            f"{path}: expected rows of {case} alone, got some of {len(others)} other runs or "
            f"measurements, {others[0]} for one; give another --out"
        )
    path.unlink()


def _case_of(line: str) -> object:
    try:
        row = json.loads(line)
    except ValueError:
        return ""
    return row.get("case", "") if isinstance(row, dict) else ""
