"""The command line of ``ezo plan``."""

import argparse
import inspect
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from ezo import catalogue
from ezo.export.describe import describe
from ezo.export.plan import splits, table
from ezo.int8 import Int8Tensor, from_float
from ezo.plan import drawing
from ezo.plan.budget import parse_bytes
from ezo.plan.prediction import METHODS, plan
from ezo.run import expect_kind

LARGEST = 2**31  # of the numbers
DATA = (
    "what it will be trained on, for its number of classes and the shape of its examples: a data "
    "set that `ezo list` shows, a folder of images, a file.npz or a file.csv"
)
CLASSES = {"image": 10, "points": 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``ezo plan``."""
    add = parser.add_argument
    add("--model", required=True, help="a model that `ezo list` shows, or package.module:function")
    of_images = "channels height width, or points coordinates, or features"
    add("--shape", nargs="+", type=int, help=f"of one example: {of_images}; of your own models")
    add("--data", help=f"{DATA}; by default what the model is usually trained on")
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--batch", type=int, default=32, help="examples a step")
    add("--budget", help="memory for a step's tensors, for example 300KB, 12MB or 1.5GiB")
    names = ", ".join(catalogue.names("precision"))
    of_precisions = f"number formats: {names}; by default fp32, on mcu int8"
    add(
        "--precision",
        nargs="+",
        help=f"{of_precisions}; of several, what is over inference is over the first's",
    )
    chunk = "examples that layers without a gradient take at a time (ezo.stream), 0 for all"
    add("--chunk", nargs="+", type=int, help=f"{chunk}; several are planned side by side")
    add(
        "--target",
        choices=("host", "mcu"),
        default="host",
        help="mcu: RAM and flash of a microcontroller that trains the C of `ezo export`",
    )
    by_default = f"by default {' '.join(METHODS)}"
    of_methods = f"methods that `ezo list` shows, 'elastic-*' for every split; {by_default}"
    add("--methods", nargs="+", help=of_methods)
    add("--classes", type=int, help="classes; by default the data's, else 10, for points 40")
    points = "points a cloud, for a model of points; by default the data's, else 1024"
    add("--points", type=int, help=points)
    add(
        "--lean",
        action="store_true",
        help="short for full-zo and elastic-lean-k for every k, whose BP part holds nothing during "
        "a pass",
    )
    add("--plot", type=Path, help="file for a plot, for example plan.svg")


def command(given: argparse.Namespace) -> int:
    """``ezo plan``: print the table; returns 0, or 1 where nothing fits."""
    module = catalogue.find("model", given.model)
    for name in ("batch", "points", "classes"):
        value = getattr(given, name)
        if value is not None and not 1 <= value < LARGEST:
            least = "1 or more" if value < 1 else f"less than {LARGEST:,}"
            raise ValueError(f"expected --{name} of {least}, got {value}; give another number")
    if given.lean and given.methods:
        raise ValueError("expected --methods or --lean, got both; leave out --lean")
    if given.data is not None and (given.shape is not None or given.points is not None):
        raise ValueError(
            f"expected --data or the shape of its examples, got --data {given.data} and "
            f"{'--points' if given.shape is None else '--shape'}; leave out one of them"
        )
    if given.budget is not None:
        parse_bytes(given.budget)  # before the work
    if given.data is not None:
        _read(given, module)
    if given.plot is not None:
        drawing.blank(given.plot)
    example, channels = _example(given, module)
    if given.target == "mcu":
        return _mcu(given, module, channels, example)
    with torch.device("meta"):
        model = _model(given, module, channels, example)
        x = torch.empty(given.batch, *example)
        how: dict[str, Any] = {"precision": given.precision or "fp32", "chunk": given.chunk or 0}
        how |= {"methods": given.methods, "lean": given.lean, "progress": True}
        found = plan(model, x, given.budget, **how)
    print(found.table())
    if given.plot is not None:
        found.draw(given.plot)
    return 0 if found.best else 1


def _read(given: argparse.Namespace, module: ModuleType) -> None:
    """Take the shape of one example, and where none were given the classes, from the data.

    Raises:
        ValueError: the data can't be read, or the model takes another kind, or has fewer classes.
    """
    data = catalogue.find("data", given.data).load(given.data, given.data_root)
    expect_kind(given.model, module, given.data, data)
    if given.classes is not None and given.classes < data.classes:
        raise ValueError(
            f"expected --classes of {data.classes} or more, as many as {given.data} has, got "
            f"{given.classes}; leave it out"
        )
    given.shape = list(data.train_x.shape[1:])
    given.classes = given.classes or data.classes


def _example(given: argparse.Namespace, module: ModuleType) -> tuple[tuple[int, ...], int]:
    """The shape of one example, and how many channels it has.

    Raises:
        ValueError: the model's input says another, or none.
    """
    if module.INPUT != "points" and given.points is not None:
        raise ValueError(
            f"expected no --points for {given.model}, a model of "
            f"{'images' if module.INPUT else 'your own'}, got {given.points}; leave it out"
        )
    if given.shape is not None:
        wanted = {"image": (3,), "points": (2,)}.get(module.INPUT, (1, 2, 3))
        if len(given.shape) not in wanted or not all(1 <= n < LARGEST for n in given.shape):
            raise ValueError(
                f"expected --shape of {' or '.join(map(str, wanted))} numbers of 1 or more for "
                f"{given.model}, got {' '.join(map(str, given.shape))}; give one example's shape"
            )
        shape = tuple(given.shape)
        return shape, shape[0] if len(shape) == 3 else shape[-1]
    if module.INPUT is None:
        raise ValueError(
            f"expected --data or --shape for {given.model}, got none; give what it will be trained "
            "on, or one example's shape, for example --shape 3 32 32"
        )
    if module.INPUT == "image":
        image: tuple[int, ...] = getattr(module, "IMAGE", (1, 28, 28))
        return image, image[0]
    return (given.points or 1024, 3), 3


def _model(
    given: argparse.Namespace, module: ModuleType, channels: int, example: tuple[int, ...]
) -> Any:
    classes = given.classes or CLASSES.get(module.INPUT, 10)
    sized = "size" in inspect.signature(module.build).parameters and len(example) == 3
    size = {"size": example[1:]} if sized else {}
    return module.build(given.model, classes, channels, **size)


def _mcu(
    given: argparse.Namespace, module: ModuleType, channels: int, example: tuple[int, ...]
) -> int:
    """The splits that the exported C can train."""
    if unused := [name for name in ("methods", "lean", "plot", "chunk") if getattr(given, name)]:
        raise ValueError(
            f"expected no --{unused[0]} with --target mcu, whose table has all that the C can "
            "train; leave it out"
        )
    if given.precision not in (None, ["int8"]):
        raise ValueError(
            f"expected precision int8 with --target mcu, got {' '.join(given.precision)}; leave it "
            "out"
        )
    with torch.random.fork_rng(devices=[]):  # bytes don't depend on the numbers
        model = _model(given, module, channels, example)
    x = Int8Tensor(torch.zeros((1, *example), dtype=torch.int8), 0)
    ram = None if given.budget is None else parse_bytes(given.budget)
    found = splits(describe(from_float(model), None, x), sorted({1, 8, given.batch}), ram)
    print(table(found) if found else f"nothing fits in {given.budget}")
    return 0 if found else 1
