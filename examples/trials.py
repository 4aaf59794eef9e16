"""A table of short trainings, for the examples that try variants of one method.

A variant has several values of one number to choose from, as factors on it, and some seeds. What a
training reached on examples that were held out is a row in a file, and is not done again.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ezo import rows
from ezo.data import Dataset
from ezo.rows import Row, provenance


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The module's words as they are, and every default."""


def parser(about: str, names: Sequence[str], factors: Sequence[float]) -> argparse.ArgumentParser:
    """The command line of such an example; it may add arguments of its own."""
    found = argparse.ArgumentParser(description=about, formatter_class=_Help)
    add = found.add_argument
    add("--data", default="digits", help="a data set of images that `ezo list` shows")
    add("--variants", nargs="+", choices=names, default=list(names), help="what to train")
    add("--factors", type=_positive, nargs="+", default=list(factors), help="on a variant's number")
    add("--held-out", type=int, default=300, help="training examples to judge by")
    add("--seeds", type=int, nargs="+", default=[1000, 1001], help="a training each")
    add("--out", type=Path, help="file that grows by a row a training; what it holds is kept")
    return found


def _positive(text: str) -> float:
    factor = float(text)
    if not 0 < factor < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a factor above 0, got {text}")
    return factor


def table(
    example: str,
    given: argparse.Namespace,
    setting: Callable[[int], Any],
    trained: Callable[[str, float, Any], float],
) -> None:
    """Train what ``given.out`` does not hold, and print a line for each variant.

    Args:
        example: in the rows' case.
        setting: a dataclass with ``data`` and ``seed``, of a seed.
        trained: accuracy on the held-out examples, in %, by variant, factor and setting.
    """
    held = {}
    if given.out and given.out.exists():
        held = {_key(row): row.value for row in rows.read(given.out)}
    print(f"accuracy (%) on {given.held_out:,} held-out training examples, seeds ", end="")
    print(", ".join(map(str, given.seeds)))
    print("variant   " + "".join(f"{f'x {factor:g}':>16}" for factor in given.factors))
    for name in given.variants:
        line = f"{name:<10}"
        for factor in given.factors:
            found = []
            for seed in given.seeds:
                row = _row(example, name, factor, setting(seed))
                if (value := held.get(_key(row))) is None:
                    value = trained(name, factor, setting(seed))
                    if given.out:
                        rows.write(given.out, [replace(row, value=value)], append=True)
                found.append(value)
            line += f"{' '.join(f'{value:.2f}' for value in found):>16}"
        print(line, flush=True)


def _row(example: str, name: str, factor: float, setting: Any) -> Row:
    config = {k: v for k, v in asdict(setting).items() if k not in ("data", "seed")}
    row = Row(
        *(f"{example}-{name}", "held_out_accuracy", None, "%", "lenet5", setting.data, name),
        seed=setting.seed,
        config={**config, "factor": factor},
        note="on held-out training examples",
    )
    return replace(row, **provenance())


def _key(row: Row) -> tuple[Any, ...]:
    return row.case, row.data, row.seed, tuple(sorted(row.config.items()))


@torch.no_grad()
def accuracy(model: Callable[[Tensor], Tensor], data: Dataset) -> float:
    """On the examples to judge by, in %."""
    parts = zip(data.test_x.split(500), data.test_y.split(500), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return 100 * right / len(data.test_y)
