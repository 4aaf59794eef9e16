"""``ezo export``: a network and its training as C, from the command line."""

import argparse
from pathlib import Path

from ezo.export.describe import describe
from ezo.export.plan import splits, table
from ezo.export.trained import fresh, trained_by
from ezo.export.write import write
from ezo.lock import alone_in
from ezo.plan.budget import parse_bytes
from ezo.run import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What ``ezo export`` takes."""
    add = parser.add_argument
    add("--model", help="a model that `ezo list` shows, or module:function; by default lenet5")
    add("--method", default="elastic-2", help="full-zo, elastic-<k>, tail-only-<k> or full-bp")
    add("--data", default="mnist", help="data set, .npz, .csv or folder; sets the input's exponent")
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
    add("--rate", type=int, help="of ZO, in place of where the run's course stands")
    add("--mu", type=int, help="of BP, likewise")
    add("--examples", type=int, help="write so many training examples too: data.bin, labels.bin")
    add("--out", type=Path, help="folder for the C; without it, the table of all splits")


def command(given: argparse.Namespace) -> int:
    """Run it; returns the exit status."""
    if given.examples is not None and given.examples < 1:
        raise ValueError(f"expected --examples of 1 or more, got {given.examples}")
    ram = None if given.ram is None else parse_bytes(given.ram)
    if given.run:
        trained = trained_by(given.run, given.model, given.data_root)
    else:
        run = Run(given.model or "lenet5", given.data, given.method, "int8", seed=given.seed)
        trained = fresh(run.settled(), given.data_root, given.weights)
    rates = trained.set_rates(given.rate, given.mu)
    network, optimizer, x = trained.network, trained.optimizer, trained.few
    if given.out is None:
        if given.examples is not None:
            raise ValueError("expected --out beside --examples, got none; give the folder for both")
        problem = describe(network, optimizer, x)
        print(table(splits(problem, ram=ram, dsp=not given.no_dsp)))
        return 0
    how = {"x": x, "batch": given.batch, "ram": ram, "dsp": not given.no_dsp}
    with alone_in(given.out):
        planned = write(network, optimizer, out=given.out, **how)
        print((given.out / "arena.txt").read_text(encoding="utf-8"), end="")
        print(f"way {planned.way.name}; wrote {given.out}")
        if given.examples is not None:
            n = trained.write_examples(given.examples, given.out, given.seed)
            names = ("data.bin", "labels.bin", "src/examples.h")
            print(f"wrote {n} examples to {', '.join(str(given.out / name) for name in names)}")
    print(rates)
    print(trained.inputs())
    return 0
