"""A training run as a value: what its result depends on, its names resolved, its model and data."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ezo import catalogue, check, checkpoint, rows, tuned
from ezo.data import Dataset
from ezo.methods._hyper import about


@dataclass(frozen=True)
class Run:
    """Everything that the result of a training run depends on.

    Attributes:
        hyper: hyperparameters, of the precision's kind (``HYPER`` in its file); None for the tuned
            ones (`ezo.tuned`).
        start: `case` of a finished fp32 run of the same model whose final weights this one starts
            from (fine-tuning), or nothing for fresh weights.
    """

    model: str = about(MISSING, "a model that `ezo list` shows")
    data: str = about(MISSING, "a data set that `ezo list` shows")
    method: str = about(MISSING, "a method that `ezo list` shows, for example elastic-2")
    precision: str = about("fp32", "number format")
    # Batches are full: a remainder waits for the next epoch's shuffle.
    epochs: int = about(20, "passes over the training data")
    batch_size: int = about(32, "examples a step")
    seed: int = about(0, "of initial weights, order of batches, and noise")
    train_examples: int | None = about(None, "use only so many training examples; by default all")
    held_out: int = about(
        0, "training examples kept for validation, reported on in place of the test set"
    )
    hyper: Any = None
    start: str = about(
        "",
        "case of a finished run in fp32, in a folder of that name beside --out, to fine-tune from",
    )
    chunk: int = about(
        0, "examples that layers without a gradient take at a time (`ezo.stream`), 0 for all"
    )

    def settled(self, changes: Mapping[str, Any] | None = None) -> "Settled":
        """The run with its names resolved, its hyperparameters filled in, and its numbers checked.

        Args:
            changes: hyperparameters in place of those of ``hyper``, by name.

        Raises:
            ValueError: a name is unknown, a number out of range, the method has no form in this
                precision, or does not read what is changed.
        """
        files = {kind: catalogue.find(kind, getattr(self, kind)) for kind in catalogue.OF_A_RUN}
        for name, least in (
            ("epochs", 0),
            ("batch_size", 1),
            ("seed", 0),
            ("held_out", 0),
            ("chunk", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} of {least} or more, got {getattr(self, name)}")
            if getattr(self, name) > check.LARGEST:
                raise ValueError(
                    f"expected {name} below 2**63, got {getattr(self, name)}; give a smaller one"
                )
        if self.train_examples is not None and self.train_examples < 1:
            raise ValueError(
                f"expected train_examples of 1 or more, or None for all, got {self.train_examples}"
            )
        precision = files["precision"]
        hyper, source = self.hyper, "given"
        if hyper is None:
            hyper, source = tuned.find(self.model, self.data, self.method, precision)
        if not isinstance(hyper, precision.HYPER):
            raise ValueError(
                f"expected {precision.HYPER.__name__} for {self.precision}, got "
                f"{type(hyper).__name__}; give hyperparameters of the precision's kind"
            )
        if changes:
            reads = precision.reads(self.method)
            if unread := [option(name) for name in changes if name not in reads]:
                read = [option(field.name) for field in fields(hyper) if field.name in reads]
                raise ValueError(
                    f"expected hyperparameters that {self.method} reads in {self.precision}, "
                    f"{', '.join(read)}, got {', '.join(unread)}; leave out what it does not read"
                )
            hyper = replace(hyper, **changes)
            source += f"; given: {', '.join(map(option, changes))}"
        precision.check(self.method, hyper)
        return Settled(replace(self, hyper=hyper), files, source)

    @property
    def case(self) -> str:
        """A name for the run that differs wherever a setting does."""
        return self.settled().case


class Settled:
    """A run that is ready: what `Run.settled` found, once.

    Attributes:
        run: with its hyperparameters, whose ``source`` is in words.
        files: of the model, data, method and precision, by kind.
        settings, config: every setting, flat; those that are no field of a row of their own.
        case: a name that differs wherever a setting does.
    """

    def __init__(self, run: Run, files: dict[str, ModuleType], source: str) -> None:
        self.run, self.files, self.source = run, files, source
        named = asdict(run)
        for name in ("start", "chunk"):  # names of runs are as before there were these
            if not named[name]:
                del named[name]
        own = ("model", "data", "method", "precision", "seed")
        both = {**named, **named["hyper"]}
        self.settings = {k: v for k, v in both.items() if k != "hyper"}
        self.config = {k: v for k, v in self.settings.items() if k not in own}
        later = {f.name: f.default for f in fields(run.hyper) if f.metadata.get("later")}
        for name in [name for name in later if named["hyper"][name] == later[name]]:
            del named["hyper"][name]
        tag = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
        precision = run.precision.replace("*", "star")  # the name is also a file's
        self.case = f"{run.model}-{run.data}-{run.method}-{precision}-seed{run.seed}-{tag}"

    def settled(self) -> "Settled":
        """Itself."""
        return self


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def build(run: Run | Settled, classes: int, channels: int) -> nn.Module:
    """The run's model at its initial weights; torch's global generator is left as it was."""
    settled = run.settled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settled.run.seed)
        model: nn.Module = settled.files["model"].build(settled.run.model, classes, channels)
        return model


def load(run: Run | Settled, root: Path | None = None) -> Dataset:
    """The run's data: cut to ``train_examples``, with ``held_out`` in place of the test set.

    Raises:
        ValueError: the model takes another kind of input, or the data set has too few examples.
    """
    settled = run.settled()
    run = settled.run
    data: Dataset = settled.files["data"].load(run.data, root)
    kind = "image" if data.train_x.dim() == 4 else "points"
    wanted = settled.files["model"].INPUT
    if kind != wanted:
        raise ValueError(
            f"expected data of {wanted} for {run.model}, got {kind} from {run.data}; give other "
            "data or another model, as `ezo list` names them"
        )
    size, given = getattr(settled.files["model"], "SIZE", None), tuple(data.train_x.shape[2:])
    if size not in (None, given):
        raise ValueError(
            f"expected images of {size} pixels for {run.model}, got {given} from {run.data}; give "
            "a model that takes them, mobilenet_v2 for one, or scale the images"
        )
    n = len(data.train_x) - run.held_out
    examples = min(n, run.train_examples or n)
    if examples < run.batch_size:
        raise ValueError(
            f"expected at least one batch of {run.batch_size} examples, got {examples} "
            f"from {run.data}; lower the batch size"
        )
    if examples < (run.train_examples or n):
        raise ValueError(
            f"expected train_examples of {n} or fewer, as many as {run.data} has"
            f"{f' beside {run.held_out} held out' if run.held_out else ''}, "
            f"got {run.train_examples}; ask for fewer, or for all"
        )
    if examples == len(data.train_x):
        return data
    x, y = data.train_x, data.train_y
    test = (x[n:], y[n:]) if run.held_out else (data.test_x, data.test_y)
    return Dataset(x[:examples], y[:examples], *test, data.classes, data.augment)


def load_start(model: nn.Module, settled: Settled, runs: Path | None) -> None:
    """Give a model the final weights of the run that ``start`` names, from its folder in ``runs``.

    Raises:
        ValueError: the run to start from is not there, did not finish, or is of another model.
    """
    run = settled.run
    if runs is None:
        raise ValueError(
            f"expected a folder where {run.start} lies, for its weights are the start; give an "
            "out beside that run's"
        )
    folder = runs / run.start
    ended = rows.read(folder / "rows.jsonl") if (folder / "rows.jsonl").exists() else []
    if not ended or ended[-1].metric != "finished":
        raise ValueError(
            f"{folder}: expected a finished run, whose weights {settled.case} starts from, got "
            f"{ended[-1].metric if ended else 'none'}; train it first"
        )
    theirs = (ended[-1].model, ended[-1].precision)
    if theirs != (run.model, "fp32"):
        raise ValueError(
            f"expected start to be a run of {run.model} in fp32, got one of {' in '.join(theirs)}; "
            "start from another"
        )
    path = folder / "checkpoint.safetensors"
    state = checkpoint.load(path)
    with checkpoint.expected(path, f"the weights of {run.model}"):
        model.load_state_dict(state["model"])
