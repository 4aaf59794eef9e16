"""``ezo export``: a network and its training as C, from the command line."""

import argparse
from pathlib import Path
from typing import Any

from ezo import checkpoint
from ezo.export.describe import describe
from ezo.export.plan import splits, table
from ezo.export.write import write
from ezo.int8 import ElasticZO, Int8Tensor, quantize
from ezo.int8.network import Network
from ezo.plan.budget import parse_bytes
from ezo.restore import settled_of
from ezo.run import Run, Settled, begin, build, load

EXAMPLES = 8  # of the training set, for the self-test
Trained = tuple[Network, ElasticZO, Int8Tensor]  # and a few examples


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``ezo export`` takes."""
    add = parser.add_argument
    add("--model", default="lenet5", help="a model that `ezo list` shows, or module:function")
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
    add("--ram", help="the part's RAM, for example 256KiB; by default no bound")
    add("--no-dsp", action="store_true", help="no room for two products an instruction")
    add("--out", type=Path, help="folder for the C; without it, the table of all splits")


def command(given: argparse.Namespace) -> int:
    """Run it; returns the exit status."""
    ram = None if given.ram is None else parse_bytes(given.ram)
    network, optimizer, x = _from_run(given) if given.run else _fresh(given)
    if given.out is None:
        problem = describe(network, optimizer, x)
        print(table(splits(problem, ram=ram, dsp=not given.no_dsp)))
        return 0
    planned = write(
        network,
        optimizer,
        x=x,
        batch=given.batch,
        out=given.out,
        ram=ram,
        dsp=not given.no_dsp,
    )
    print((given.out / "arena.txt").read_text(encoding="utf-8"), end="")
    print(f"way {planned.way.name}; wrote {given.out}")
    return 0


def _fresh(given: argparse.Namespace) -> Trained:
    run = Run(given.model, given.data, given.method, "int8", seed=given.seed)
    return _made(run.settled(), given.data_root, given.weights, {})


def _from_run(given: argparse.Namespace) -> Trained:
    path = given.run / "checkpoint.safetensors"
    if not path.exists():
        raise ValueError(
            f"expected a run's folder, with checkpoint.safetensors, got {given.run}; give the "
            "--out of `ezo train --precision int8`"
        )
    state = checkpoint.load(path)
    with checkpoint.expected(path, "the state of a run"):
        settings = dict(state.get("settings", {}))
        precision = settings.get("precision", "one of old")
    if precision != "int8":
        raise ValueError(
            f"{path}: expected a run in int8, got {precision!r:.40}; train with --precision int8"
        )
    settled = settled_of(path, settings, given.model)
    return _made(settled, given.data_root, None, state, path)


def _made(
    settled: Settled,
    root: Path | None,
    weights: Path | None,
    state: dict[str, Any],
    path: Path | None = None,
) -> Trained:
    run, data = settled.run, load(settled, root)
    model = build(settled, data.classes, data.channels, data.size)
    begin(model, settled, data)
    if weights is not None:
        found = checkpoint.tensors(weights)
        with checkpoint.expected(weights, f"float weights of {run.model}"):
            model.load_state_dict(found)
    step = settled.files["precision"].make_step("int8", model, run.method, run.hyper, run.seed)
    x = quantize(data.train_x)  # one exponent for all, as in training
    if path is not None:
        with checkpoint.expected(path, f"the state of {settled.case}"):
            checkpoint.restore(step.model, step.optimizer, state)
    return step.model, step.optimizer, Int8Tensor(x.m[:EXAMPLES], x.e)
