"""Input of words: command lines in process that start no work, budgets, and tables of settings."""

import contextlib
import io
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from fuzz_input import NUMBERS, Target, damage, text

from bench import __main__ as bench_main
from bench import gate, grid, smoke
from bench.gate.judging import Finding
from ezo import cli, plan, train, tuned
from ezo.plan import command as plan_command
from ezo.run import Run
from reproduce import __main__ as reproduce_main
from reproduce import driver, report, search

RUN = Run("lenet5", "digits", "elastic-1", epochs=1, train_examples=64)
BUDGETS = ("300KB", "12MB", "1.5GiB", "700B", "-5MB", "1e3B", "5 KB", "0B", "KB", "5kb", "5TB")
MODELS, METHODS = ("lenet5", "pointnet"), ("full-zo", "elastic-2", "full-bp", "elastic-lean-3")
EZO = {
    "train": {
        "--model": MODELS,
        "--data": ("digits", "mnist-rot30", "shapes", "modelnet40-64"),
        "--method": METHODS,
        "--precision": ("fp32", "int8", "int8*"),
        "--epochs": ("1", "20"),
        "--batch-size": ("32", "1"),
        "--seed": ("0", "7"),
        "--train-examples": ("64",),
        "--held-out": ("0", "10"),
        "--device": ("cpu", "cuda:99", "meta"),
        "--threads": ("1", "2"),
        "--checkpoint-steps": ("1", "1000"),
        "--lr": ("1e-3",),
        "--clip": ("none", "5"),
        "--noise": ("gaussian", "uniform"),
        "--schedule": ("cosine",),
        "--mu": ("3",),
        "--estimator": ("central", "forward"),
    },
    "plan": {
        "--model": (*MODELS, "mobilenet_v2"),
        "--data": ("digits", "none.npz"),
        "--batch": ("32", "1"),
        "--budget": BUDGETS,
        "--precision": ("fp32", "int8"),
        "--methods": METHODS,
        "--classes": ("10",),
        "--points": ("64", "1024"),
        "--plot": ("plan.svg", "plan.xyz"),
    },
    "list": {},
    "": {"--version": ("",)},
}
REPRODUCE = {
    "": {
        "--preset": ("smoke", "quick"),
        "--experiments": ("digits", "mnist"),
        "--out": ("out",),
        "--jobs": ("1", "2"),
        "--device": ("cpu",),
        "--redraw": ("out", "none"),
    },
    "status": {"": ("out", "none")},
    "merge": {"": ("out", "a", "none"), "--out": ("out",)},
}
SEARCH = {
    "": {
        "--out": ("out",),
        "--model": MODELS,
        "--data": ("digits",),
        "--methods": METHODS,
        "--trials": ("7", "0"),
        "--epochs": ("1",),
        "--jobs": ("1",),
        "--known": ("none", "out"),
    }
}
GRID = {
    "--models": MODELS,
    "--methods": (*METHODS, "elastic-*", "inference"),
    "--batch-size": ("32", "1"),
    "--precision": ("fp32", "int8"),
    "--threads": ("1", "2"),
    "--device": ("cpu", "cuda:99"),
    "--out": ("out",),
    "--jobs": ("1", "2"),
}
BENCH = {
    "run": {"": ("memory", "time", "conformance"), **GRID},
    "gate": {
        "--base": ("HEAD",),
        "--pairs": ("1",),
        "--tolerance": ("0.1",),
        "--bytes-tolerance": ("0",),
        "--repeat": ("1",),
        "--json": ("g.json", "none/g.json"),
        "--markdown": ("g.md",),
        "--only": ("exact",),
        **{name: GRID[name] for name in ("--models", "--methods", "--batch-size")},
    },
    "smoke": {"--at-most": ("60",)},
}


def words(chance: random.Random, commands: dict[str, dict[str, tuple[str, ...]]]) -> list[str]:
    """A command line of options with usual values, and some that are none."""
    command = chance.choice(list(commands) if chance.randrange(30) else ["surprise"])
    found = [command] if command else []
    for option, values in commands.get(command, {}).items():
        if chance.randrange(4) == 0:
            continue
        value = chance.choice((*NUMBERS, *BUDGETS) if chance.randrange(5) == 0 else values)
        if chance.randrange(12) == 0:
            data = damage(chance, value.encode("utf-8", "surrogatepass"), b"-1")[:10_000]
            value = data.decode("utf-8", "replace").replace("/", "")
        # What no command line can hold: NUL, and surrogates but those of bytes that are no text.
        value = value.replace("\0", "").replace("\ud800", "\udcff")
        if not option or not value:
            found.append(value or option)
        else:
            found += [f"{option}={value}"] if chance.randrange(2) else [option, value]
    if chance.randrange(8) == 0:
        more = ("--help", "--surprise", "-x", "--", "x", "@f", "--list", "--again", "--lean")
        found.insert(chance.randrange(len(found) + 1), chance.choice(more))
    return found


def maker(commands: dict[str, dict[str, tuple[str, ...]]]) -> Callable[[random.Random, Path], Any]:
    def make(chance: random.Random, folder: Path) -> tuple[Path, list[str]]:
        return folder, words(chance, commands)

    return make


def run(program: Callable[[], int | None], folder: Path, given: list[str]) -> int:
    """A command's status in a folder; one that refuses is a ValueError with what it says."""
    error, before = io.StringIO(), Path.cwd()
    os.chdir(folder)
    try:
        with (
            mock.patch.object(sys, "argv", ["program", *given]),
            mock.patch.object(tempfile, "tempdir", str(folder)),
            contextlib.redirect_stderr(error),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            status = program() or 0
    except SystemExit as ended:  # by argparse, which words an error in its own way
        if ended.code and "usage: " not in error.getvalue():
            raise
        if ended.code:
            raise ValueError(f"expected other words, got: {error.getvalue()}") from None
        status = 0
    finally:
        os.chdir(before)
    if status == 2:
        raise ValueError(error.getvalue())
    return int(status)


class Planned:
    """In place of a plan."""

    best = True

    def table(self) -> str:
        return ""

    def draw(self, path: Path) -> None:
        plan.Plan.draw  # noqa: B018 (that it is there)


def read_ezo(tried: tuple[Path, list[str]]) -> int:
    threads = torch.get_num_threads()
    with (
        mock.patch.object(train, "train", lambda *_, **__: iter(())),
        mock.patch.object(plan_command, "plan", lambda *_, **__: Planned()),
    ):
        try:
            return run(cli.main, *tried)
        finally:
            torch.set_num_threads(threads)


def read_reproduce(tried: tuple[Path, list[str]]) -> int:
    with (
        mock.patch.object(driver, "run", lambda *_, **__: ""),
        mock.patch.object(reproduce_main, "_report", lambda *_: 0),
        mock.patch.object(report, "check", lambda *_: None),
    ):
        return run(reproduce_main.main, *tried)


def read_search(tried: tuple[Path, list[str]]) -> int:
    with mock.patch.object(
        search, "_run_all", lambda runs, *_: {one.settled().case: 1.0 for one in runs}
    ):
        return run(search.main, *tried)


def read_bench(tried: tuple[Path, list[str]]) -> int:
    with (
        mock.patch.object(bench_main, "_measure", lambda *_: 0),
        mock.patch.object(grid, "flops", lambda case: 10**6),
        mock.patch.object(smoke, "run", lambda *_: 0),
        mock.patch.object(gate, "build_sides", lambda *_: {}),
        mock.patch.object(
            gate.Gate, "compare", lambda *_: [Finding(gate.CELLS[0], "a", None, None, "same")]
        ),
    ):
        return run(bench_main.main, *tried)


def make_budget(chance: random.Random, folder: Path) -> str:
    value = chance.choice(BUDGETS if chance.randrange(3) else NUMBERS)
    if chance.randrange(3):
        value = damage(chance, value.encode("utf-8", "surrogatepass"), b"9MB").decode(
            "utf-8", "replace"
        )
    return value + chance.choice(("", "", "KB", "GiB"))


TABLE = json.loads(tuned.PATH.read_text(encoding="utf-8"))
TABLE = {key: TABLE[key] for key in TABLE if key.startswith("lenet5/mnist/elastic-2")}


def make_tuned(chance: random.Random, folder: Path) -> Path:
    (folder / "tuned.json").write_bytes(text(chance, TABLE))
    return folder / "tuned.json"


def read_tuned(path: Path) -> Any:
    tuned._table.cache_clear()
    try:
        with mock.patch.object(tuned, "PATH", path):
            return [tuned.tuned("lenet5", "mnist", "elastic-2", p) for p in ("fp32", "int8")]
    finally:
        tuned._table.cache_clear()


MORE = {"clip": (int, type(None)), "queries": (), "noise": (), "schedule": ()}


def sane_tuned(found: list[Any]) -> bool:
    """Of the default values' types; an integer is a number, too."""
    return all(
        type(getattr(hyper, f.name)) in (type(f.default), *MORE.get(f.name, (int,)))
        for hyper in found
        for f in fields(hyper)
    )


WORDS = (
    Target("budget", 700, make_budget, plan.parse_bytes, lambda n: type(n) is int and n >= 0),
    Target("tuned", 150, make_tuned, read_tuned, sane_tuned),
    Target("ezo", 100, maker(EZO), read_ezo, lambda status: status in (0, 1)),
    Target("reproduce", 50, maker(REPRODUCE), read_reproduce, lambda status: status in (0, 1)),
    Target("search", 20, maker(SEARCH), read_search, lambda status: status == 0),
    Target("bench", 30, maker(BENCH), read_bench, lambda status: status in (0, 1)),
)
