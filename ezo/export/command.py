"""``ezo export``: a network and its training as C, from the command line."""

import argparse
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ezo import catalogue, checkpoint, train
from ezo.export.describe import describe
from ezo.export.plan import splits, table
from ezo.export.write import write
from ezo.int8 import Int8Tensor
from ezo.methods._hyper import tuned
from ezo.train import Run

EXAMPLES = 8  # of the training set, for the self-test
_UNITS = {"": 1, "B": 1, "KiB": 1024, "MiB": 1024**2, "kB": 1000, "MB": 1000**2}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``ezo export`` takes."""
    add = parser.add_argument
    add("--model", default="lenet5", help="a model that `ezo list` shows")
    add("--method", default="elastic-2", help="full-zo, elastic-<k>, tail-only-<k> or full-bp")
    add("--data", default="mnist", help="the data set whose training set sets the input's exponent")
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--batch", type=int, default=32, help="examples a step")
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        "--from", dest="run", type=Path, help="folder of an int8 run: go on where it stands"
    )
    start.add_argument("--weights", type=Path, help="float weights, a safetensors file")
    add("--seed", type=int, default=0, help="of initial weights and noise")
    add("--ram", type=_bytes, help="the part's RAM, for example 256KiB; by default no bound")
    add("--no-dsp", action="store_true", help="no room for two products an instruction")
    add("--out", type=Path, help="folder for the C; without it, the table of all splits")


def command(given: argparse.Namespace) -> int:
    """Run it; returns the exit status."""
    network, optimizer, x = _from_run(given) if given.run else _fresh(given)
    if given.out is None:
        problem = describe(network, optimizer, x)
        print(table(splits(problem, ram=given.ram, dsp=not given.no_dsp)))
        return 0
    planned = write(
        network,
        optimizer,
        x=x,
        batch=given.batch,
        out=given.out,
        ram=given.ram,
        dsp=not given.no_dsp,
    )
    print((given.out / "arena.txt").read_text(encoding="utf-8"), end="")
    print(f"way {planned.way.name}; wrote {given.out}")
    return 0


def _fresh(given: argparse.Namespace) -> tuple[Any, Any, Int8Tensor]:
    hyper = tuned(given.model, given.data, given.method, "int8")
    run = Run(given.model, given.data, given.method, "int8", seed=given.seed, hyper=hyper).settled()
    return _trainer(run, given.data_root, given.weights, {})


def _from_run(given: argparse.Namespace) -> tuple[Any, Any, Int8Tensor]:
    path = given.run / "checkpoint.safetensors"
    if not path.exists():
        raise ValueError(f"expected a run's folder, with checkpoint.safetensors, got {given.run}")
    state = checkpoint.load(path)
    settings = dict(state.get("settings", {}))
    if settings.get("precision") != "int8":
        raise ValueError(
            f"{path}: expected a run in int8, got {settings.get('precision', 'one of old')}; "
            "train with --precision int8"
        )
    kind = catalogue.find("precision", "int8").HYPER
    names = {field.name for field in fields(kind)}
    hyper = kind(**{name: settings.pop(name) for name in list(settings) if name in names})
    settings.pop("start", None)
    return _trainer(Run(**settings, hyper=hyper), given.data_root, None, state)


def _trainer(
    run: Run, root: Path | None, weights: Path | None, state: dict[str, Any]
) -> tuple[Any, Any, Int8Tensor]:
    """The run's network and optimiser, and a few examples."""
    data = train.load(run, root)
    model = train.build(run, data.classes, data.train_x.shape[1 if data.train_x.dim() == 4 else 2])
    if weights is not None:
        from safetensors.torch import load_file

        model.load_state_dict(load_file(weights))
    trainer = catalogue.find("precision", "int8").trainer(
        "int8", model, data, run.method, run.hyper, run.seed, torch.device("cpu")
    )
    if state:
        trainer.model.load_state_dict(state["model"])
        trainer.optimizer.load_state_dict(state["optimizer"])
    n = min(EXAMPLES, len(data.train_x))
    x, _ = trainer.batch(torch.arange(n), torch.Generator())
    return trainer.model, trainer.optimizer, x


def _bytes(text: str) -> int:
    """256KiB, 64kB or 16384.

    >>> _bytes("256KiB")
    262144
    """
    found = re.fullmatch(r"(\d+)\s*([A-Za-z]*)", text)
    if found is None or found.group(2) not in _UNITS:
        raise argparse.ArgumentTypeError(f"expected bytes, for example 256KiB, got '{text}'")
    return int(found.group(1)) * _UNITS[found.group(2)]
