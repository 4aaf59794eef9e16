"""The command line: ``ezo train``, ``ezo plan`` and ``ezo list``."""

import argparse
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from ezo import catalogue, plan, rows, train
from ezo.methods._hyper import tuned
from ezo.train import Run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0, 1 (diverged, or no split fits), 2 (unusable arguments), 130 (stopped by the user) or 141 (the
    reader is gone).
    """
    parser = argparse.ArgumentParser(prog="ezo", description="Train networks by ElasticZO.")
    parser.add_argument("--version", action="version", version=f"ezo {rows.version_of('ezo')}")
    commands = parser.add_subparsers(dest="command")
    _add_train(
        commands.add_parser(
            "train",
            help="train a model and report its accuracy",
            description="Train a model. With --out, rows.jsonl and a checkpoint stay there, and "
            "the same command goes on where it was stopped.",
            formatter_class=_Help,
        )
    )
    plan.add_arguments(
        commands.add_parser(
            "plan",
            help="predict memory and time of every split of a model",
            description="Predict the peak bytes and the relative time of a step, for every split "
            "of a model, and say which has the most BP that fits a budget.",
            formatter_class=_Help,
        )
    )
    commands.add_parser("list", help="list the models, data sets, methods and precisions")
    given = parser.parse_args(arguments)
    if given.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    try:
        if given.command == "plan":
            status = plan.command(given)
        else:
            status = _list() if given.command == "list" else _train(given)
        sys.stdout.flush()  # a reader that is gone shows here, not at exit
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return 128 + 13  # as a shell counts an end by SIGPIPE
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"ezo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "ezo: stopped"
            + (
                "; the same command goes on from the last checkpoint"
                if given.command == "train" and given.out
                else ""
            ),
            file=sys.stderr,
        )
        return 130


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default that there is."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default is None else super()._get_help_string(action)


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--model", required=True, help="a model that `ezo list` shows")
    add("--data", required=True, help="a data set that `ezo list` shows")
    add("--method", required=True, help="a method that `ezo list` shows, for example elastic-2")
    add(
        "--precision",
        default="fp32",
        help=f"number format: {', '.join(catalogue.names('precision'))}",
    )
    add("--epochs", type=int, default=20, help="passes over the training data")
    add("--batch-size", type=int, default=32, help="examples a step")
    add("--seed", type=int, default=0, help="of initial weights, order of batches, and noise")
    add("--train-examples", type=int, help="use only so many training examples; by default all")
    add(
        "--held-out",
        type=int,
        default=0,
        help="training examples kept for validation, reported on in place of the test set",
    )
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--out", type=Path, help="folder for rows.jsonl and the checkpoint; by default none")
    add("--device", default="cpu", help="cpu, cuda or another torch device")
    add("--threads", type=int, help="CPU threads; by default torch's choice")
    add("--checkpoint-steps", type=int, default=1000, help="steps between checkpoints")
    known: set[str] = set()
    for precision in catalogue.members("precision"):
        group = parser.add_argument_group(
            f"hyperparameters of {' and '.join(precision.NAMES)}",
            "by default the values tuned for this model, data set, method and precision, and where "
            "there are none (tuned.json) the method's own; one that the method does not read is an "
            "error",
        )
        for field in fields(precision.HYPER):
            if field.name not in known:  # else it means the same in both
                group.add_argument(
                    _option(field.name),
                    type=_number_or_none if field.name == "clip" else type(field.default),
                    default=argparse.SUPPRESS,
                    help=field.metadata["help"],
                )
            known.add(field.name)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def _train(given: argparse.Namespace) -> int:
    if given.threads is not None:
        if given.threads < 1:
            raise ValueError(f"expected --threads of 1 or more, got {given.threads}")
        torch.set_num_threads(given.threads)
    _check_device(given.device)
    for kind in catalogue.OF_A_RUN:
        catalogue.find(kind, getattr(given, kind))
    run = Run(
        given.model,
        given.data,
        given.method,
        given.precision,
        given.epochs,
        given.batch_size,
        given.seed,
        given.train_examples,
        given.held_out,
        hyper=_hyper(given),
    )
    steps = train.train(
        run,
        root=given.data_root,
        out=given.out,
        device=given.device,
        checkpoint_steps=given.checkpoint_steps,
        progress=sys.stderr.isatty(),
    )
    for row in steps:
        if row.metric == "diverged":
            print(f"diverged: {row.note}")
            return 1
        if row.metric == "finished":
            print(f"finished at step {row.value:,}, weights {row.note[:16]}")
        else:
            value = math.nan if row.value is None else row.value  # rows on disk have no NaN
            print(f"step {row.step:>7,}  {row.metric:<15} {value:>12,.4f} {row.unit}", flush=True)
    return 0


def _hyper(given: argparse.Namespace) -> Any:
    """The tuned values, but those given.

    Raises:
        ValueError: one is given that the method does not read in this precision.
    """
    names = dict.fromkeys(
        field.name for file in catalogue.members("precision") for field in fields(file.HYPER)
    )
    chosen = {name: getattr(given, name) for name in names if hasattr(given, name)}
    reads = catalogue.find("precision", given.precision).reads(given.method)
    unread = [_option(name) for name in chosen if name not in reads]
    if unread:
        raise ValueError(
            f"expected hyperparameters that {given.method} reads in {given.precision}, "
            f"{', '.join(_option(name) for name in names if name in reads)}, got "
            f"{', '.join(unread)}; leave out what it does not read"
        )
    return replace(tuned(given.model, given.data, given.method, given.precision), **chosen)


def _check_device(name: str) -> None:
    """Raises:
    ValueError: torch has no such device here.
    """
    try:
        torch.empty(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"expected a device that works here, got '{name}': {reason}; give --device cpu"
        ) from error


def _list() -> int:
    width = max(len(name) for kind in catalogue.KINDS for name in catalogue.names(kind))
    for kind in catalogue.KINDS:
        print(f"{kind}:")
        for module in catalogue.members(kind):
            about = (module.__doc__ or "").strip().splitlines()[0]
            for name, text in zip_longest(module.NAMES, [about], fillvalue=""):
                print(f"  {name:<{width}}  {text}".rstrip())
    return 0


if __name__ == "__main__":
    sys.exit(main())
