"""The command line: train, predict, eval, replay, journal, plan, export and list."""

import argparse
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, Field, fields
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ezo import catalogue, check, noise, predict, rows, train
from ezo.export import command as export
from ezo.files import run_command
from ezo.journal import command as journal
from ezo.plan import command as plan
from ezo.ranks import SPLITS, Ranks, ranks_of
from ezo.run import Run, Settled, option


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0, 1 (diverged, or no method fits), 2 (unusable arguments), 130 (stopped by the user) or 141
    (the reader is gone).
    """
    parser = argparse.ArgumentParser(prog="ezo", description="Train networks by ElasticZO.")
    parser.add_argument(
        "--version", action="version", version=f"ezo {rows.version_of('elasticzo')}"
    )
    commands = parser.add_subparsers(dest="command")
    about = (
        "Train a model. With --out, rows.jsonl and a checkpoint stay there, and the same command "
        "goes on where it was stopped."
    )
    how: dict[str, Any] = {"description": about, "formatter_class": _Help}
    _add_train(commands.add_parser("train", help="train a model and report its accuracy", **how))
    how["description"] = (
        "Make the weights that a run ended with again, from those that it began with and the "
        "journal that `ezo train --journal` kept: no data, no passes, the same bits."
    )
    text = "make a run's weights again from its journal"
    journal.add_replay(commands.add_parser("replay", help=text, **how))
    how["description"] = "Print what a journal holds, and what of it is damaged."
    journal.add_journal(commands.add_parser("journal", help="say what a journal holds", **how))
    how["description"] = (
        "Predict the peak bytes and the relative time of a step, for every split of a model or the "
        "methods given, and say which has the most BP that fits a budget."
    )
    text = "predict memory and time of a model's step by each method"
    plan.add_arguments(commands.add_parser("plan", help=text, **how))
    how["description"] = "Predict the classes of examples by the weights of a run, as CSV."
    predict.add_predict(commands.add_parser("predict", help="predict classes of examples", **how))
    how["description"] = "Print the accuracy and the loss of a run's weights on labelled examples."
    predict.add_eval(commands.add_parser("eval", help="measure a run on other data", **how))
    how["description"] = (
        "Write C99 that goes on with a training on a microcontroller, to the same bits; without "
        "--out, print what every split would take."
    )
    text = "write C that trains on a microcontroller"
    export.add_arguments(commands.add_parser("export", help=text, **how))
    commands.add_parser("list", help="list the models, data sets, methods and precisions")
    given = parser.parse_args(list(joined(sys.argv[1:] if arguments is None else arguments)))
    if given.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    work = {
        "train": _train,
        "predict": predict.command_predict,
        "eval": predict.command_eval,
        "replay": journal.command_replay,
        "journal": journal.command_journal,
        "plan": plan.command,
        "export": export.command,
        "list": _list,
    }
    on = "; the same command goes on from the last checkpoint"
    stopped = f"stopped{on if given.command == 'train' and given.out else ''}"
    return run_command("ezo", lambda: work[given.command](given), stopped)


class _Help(argparse.ArgumentDefaultsHelpFormatter):
    """Shows each default that there is."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, "") else super()._get_help_string(action)


def _add_train(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    for field in fields(Run):
        if "help" in field.metadata:
            how: dict[str, Any] = {"required": True, "help": field.metadata["help"]}
            if field.default is not MISSING:
                kind = int if field.default is None else type(field.default)
                how |= {"required": False, "type": kind, "default": field.default}
            if field.name == "precision":
                how["help"] += f": {', '.join(catalogue.names('precision'))}"
            add(option(field.name), **how)
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--out", type=Path, help="folder for rows.jsonl and the checkpoint; by default none")
    add("--journal", type=Path, help="file that keeps what each step applied, for `ezo replay`")
    add(
        "--ranks",
        choices=SPLITS,
        help="train with the other processes that torchrun started: what they share, the examples "
        "of a batch or the queries of a step; by default one process",
    )
    add("--device", default="cpu", help="cpu, cuda or another torch device")
    add("--threads", type=int, help="CPU threads; by default torch's choice")
    add("--checkpoint-steps", type=int, default=1000, help="steps between checkpoints")
    titles: dict[type, str] = {}  # of precisions by their hyperparameters
    for precision in catalogue.members("precision"):
        names = [titles[precision.HYPER]] if precision.HYPER in titles else []
        titles[precision.HYPER] = " and ".join([*names, *precision.NAMES])
    options: dict[str, dict[str, Field[Any]]] = {}  # by name, then by title
    for hyper, title in titles.items():
        for field in fields(hyper):
            options.setdefault(field.name, {})[title] = field
    groups = {
        t: parser.add_argument_group(f"hyperparameters of {t}", _FROM) for t in titles.values()
    }
    for name, own in options.items():
        told = {t: f"{f.metadata['help']} (untuned: {f.default})" for t, f in own.items()}
        title, field = next(iter(own.items()))
        groups[title].add_argument(
            option(name),
            type=_number_or_none if "None" in str(field.type) else type(field.default),
            default=argparse.SUPPRESS,
            help=told[title] if len(told) == 1 else "; ".join(f"in {t}: {told[t]}" for t in told),
        )


_FROM = (
    "by default the values tuned for this model, data set, method and precision, else those of the "
    "nearest that were, else the method's own, which are as a rule those called untuned here; one "
    "that the method does not read is an error"
)


def joined(words: Sequence[str]) -> Iterator[str]:
    """``--budget -5MB`` as ``--budget=-5MB``, which argparse takes for a value; so also ``--``."""
    words = list(words)
    while words:
        word = words.pop(0)
        if word.startswith("--") and "=" not in word and words and re.match(r"-\d|--$", words[0]):
            word += "=" + words.pop(0)
        yield word + " " if word.endswith("=--") else word  # which argparse would take away


def _number_or_none(text: str) -> float | None:
    return None if text == "none" else float(text)


def _train(given: argparse.Namespace) -> int:
    if given.threads is not None:
        if given.threads < 1:
            raise ValueError(f"expected --threads of 1 or more, got {given.threads}")
        if given.threads > 1024:
            raise ValueError(
                f"expected --threads of 1024 or fewer, got {given.threads}; give as many as there "
                "are cores"
            )
        torch.set_num_threads(given.threads)
    check.device(given.device)
    names = dict.fromkeys(f.name for p in catalogue.members("precision") for f in fields(p.HYPER))
    own, changes = (
        {name: getattr(given, name) for name in of if hasattr(given, name)}
        for of in ([f.name for f in fields(Run)], names)
    )
    run = Run(**own)
    hyper = fields(catalogue.find("precision", run.precision).HYPER)
    whole = {f.name for f in hyper if type(f.default) is int}  # and no whole number in another one
    for name in whole & changes.keys():
        if changes[name] == math.floor(changes[name]):
            changes[name] = int(changes[name])
    settled = run.settled(changes)
    with ranks_of(given.ranks, given.device) as ranks:
        return _report(given, settled, ranks)


def _report(given: argparse.Namespace, settled: Settled, ranks: Ranks | None) -> int:
    begun = given.out is not None and (given.out / "checkpoint.safetensors").exists()
    steps = train.train(
        settled,
        root=given.data_root,
        out=given.out,
        device=given.device,
        checkpoint_steps=given.checkpoint_steps,
        journal=given.journal,
        ranks=ranks,
        progress=sys.stderr.isatty(),
    )
    if ranks is not None and torch.distributed.get_rank():  # rank 0 tells
        return int([row.metric for row in steps][-1] == "diverged")
    first = next(steps, None)  # what can't be trained is an error before anything is said
    print(f"ezo: hyperparameters: {settled.source}", file=sys.stderr)
    if first and (made := rows.of_other_code([first])):
        print(
            f"ezo: what was there is of {made}, other code than this; it is kept, and the run "
            "goes on from it. Remove the folder to train anew",
            file=sys.stderr,
        )
    if begun:
        print(f"ezo: goes on with the run in {given.out}; earlier rows come first", file=sys.stderr)
    for row in chain([first] if first else [], steps):
        if row.metric == "diverged":
            print(f"diverged: {row.note}")
            return 1
        if row.metric == "finished":
            print(f"finished at step {row.value:,}, weights {row.note[:16]}")
        else:
            value = math.nan if row.value is None else row.value  # rows on disk have no NaN
            print(f"step {row.step:>7,}  {row.metric:<15} {value:>12,.4f} {row.unit}", flush=True)
            if row.metric == "sent_bytes":
                print(f"ezo: {row.note}", file=sys.stderr)
    return 0


def _list(_: argparse.Namespace) -> int:
    width = max(len(name) for kind in catalogue.KINDS for name in catalogue.names(kind))
    for kind in catalogue.KINDS:
        print(f"{kind}:")
        for module in catalogue.members(kind):
            for name, text in catalogue.described(module):
                print(f"  {name:<{width}}  {text}".rstrip())
    print("noise:")
    for name, text in noise.ABOUT.items():
        print(f"  {name:<{width}}  {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
