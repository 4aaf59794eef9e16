"""The command line of ``ezo plan``."""

import argparse
from pathlib import Path

import torch

from ezo import catalogue
from ezo.plan.prediction import METHODS, parse_bytes, plan

CLASSES = {"image": 10, "points": 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``ezo plan``."""
    add = parser.add_argument
    add("--model", required=True, help="a model that `ezo list` shows")
    add("--batch", type=int, default=32, help="examples a step")
    add("--budget", help="memory for a step's tensors, for example 300KB, 12MB or 1.5GiB")
    names = ", ".join(catalogue.names("precision"))
    add("--precision", default="fp32", help=f"number format: {names}")
    by_default = f"by default {' '.join(METHODS)}"
    of_methods = f"methods that `ezo list` shows, 'elastic-*' for every split; {by_default}"
    add("--methods", nargs="+", help=of_methods)
    add("--classes", type=int, help="classes; by default 10 for images and 40 for points")
    add("--points", type=int, help="points a cloud, for a model of points; by default 1024")
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
        if value is not None and value < 1:
            raise ValueError(f"expected --{name} of 1 or more, got {value}")
    if given.lean and given.methods:
        raise ValueError("expected --methods or --lean, got both; leave out --lean")
    if given.budget is not None:
        parse_bytes(given.budget)  # before the work
    if module.INPUT == "image":
        if given.points is not None:
            raise ValueError(
                f"expected no --points for {given.model}, a model of images; leave it out"
            )
        example = getattr(module, "IMAGE", (1, 28, 28))
        channels = example[0]
    else:
        example, channels = (given.points or 1024, 3), 3
    with torch.device("meta"):
        model = module.build(given.model, given.classes or CLASSES[module.INPUT], channels)
        x = torch.empty(given.batch, *example)
        how = {"precision": given.precision, "methods": given.methods, "lean": given.lean}
        found = plan(model, x, given.budget, **how)
    print(found.table())
    if given.plot is not None:
        found.draw(given.plot)
    return 0 if found.best else 1
