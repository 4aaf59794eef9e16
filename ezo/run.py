"""A training run as a value: what its result depends on, its names resolved, its model and data."""

import hashlib
import inspect
import json
import re
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
        weights: path of a safetensors file of weights to start from, or nothing.
    """

    model: str = about(MISSING, "a model that `ezo list` shows, or package.module:function")
    data: str = about(
        MISSING, "a data set that `ezo list` shows, a folder of images, a file.npz or file.csv"
    )
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
    weights: str = about("", "safetensors file of float weights to start from")
    estimator: str = about(
        "central", "how ZO estimates the loss's change: an estimator that `ezo list` shows"
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
            before = tuned.started_on(self.model, self.start)
            hyper, source = tuned.find(self.model, self.data, self.method, precision, before)
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
        if self.estimator != Run.estimator:
            catalogue.find("estimator", self.estimator)
            if not files["method"].parts(self.method).reads(("zo",), ()):
                raise ValueError(
                    f"expected a method with a ZO part for --estimator {self.estimator}, got "
                    f"{self.method}; leave the estimator out"
                )
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
        if run.weights:  # a file of the same bytes is the same start
            named["weights"] = checkpoint.file_digest(Path(run.weights))
        # names of runs are as before there were these
        for name in ("start", "chunk", "weights", "estimator"):
            if named[name] == getattr(Run, name):
                del named[name]
        own = ("model", "data", "method", "precision", "seed")
        both = {**named, **named["hyper"]}
        self.settings = {k: v for k, v in both.items() if k != "hyper"}
        self.config = {k: v for k, v in self.settings.items() if k not in own}
        later = {f.name: f.default for f in fields(run.hyper) if f.metadata.get("later")}
        for name in [name for name in later if named["hyper"][name] == later[name]]:
            del named["hyper"][name]
        tag = hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:8]
        names = f"{run.model}-{Path(run.data).name}-{run.method}-{run.precision}"
        names = re.sub(r"[^\w.-]", "_", names.replace("*", "star"))  # it is also a file's
        self.case = f"{names}-seed{run.seed}-{tag}"

    def settled(self) -> "Settled":
        """Itself."""
        return self


def option(name: str) -> str:
    return "--" + name.replace("_", "-")


def build(
    run: Run | Settled, classes: int, channels: int, size: tuple[int, ...] | None = None
) -> nn.Module:
    """The run's model at its initial weights; torch's global generator is left as it was.

    ``size`` is (height, width) of the images, which a model's file need not ask for.
    """
    settled = run.settled()
    make = settled.files["model"].build
    sized = {"size": size} if size and "size" in inspect.signature(make).parameters else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settled.run.seed)
        model: nn.Module = make(settled.run.model, classes, channels, **sized)
        return model


def begin(model: nn.Module, settled: Settled, data: Dataset) -> None:
    """See that a model takes the run's data, and give it the weights of ``weights``.

    Raises:
        ValueError: it does not take such data, or has too few outputs, or has other weights.
    """
    run = settled.run
    if data.scale is not None or settled.files["model"].INPUT is None:
        _expect_fit(run.model, model, data, run.seed)
    if run.weights:
        path = Path(run.weights)
        found = checkpoint.tensors(path)
        with checkpoint.expected(path, f"float weights of {run.model}", "give another file"):
            model.load_state_dict(found)


def tried(model: nn.Module, x: torch.Tensor, seed: int) -> Any:
    """The output for examples in evaluation; lazy layers get their weights here, by the seed."""
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            return model.eval()(x)
    finally:
        model.train()


def _expect_fit(name: str, model: nn.Module, data: Dataset, seed: int) -> None:
    x = data.train_x[:2]
    try:
        output = tried(model, x, seed)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        told = " ".join(str(error).split())[:300]
        raise ValueError(
            f"expected {name} to take examples {tuple(x.shape)}, got {type(error).__name__}: "
            f"{told}; let its function take channels and size, or give other data"
        ) from error
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else ()
    if len(shape) != 2 or shape[0] != len(x) or shape[1] < data.classes:
        raise ValueError(
            f"expected {name} to give logits ({len(x)}, {data.classes}) of {len(x)} examples, got "
            f"{shape or type(output).__name__}; let its function take classes"
        )


def expect_kind(model: str, file: ModuleType, name: str, data: Dataset) -> None:
    """Raises:
    ValueError: the model, of this file, takes another kind of input than the data are.
    """
    if file.INPUT not in (None, data.kind):
        raise ValueError(
            f"expected data of {file.INPUT} for {model}, got {data.kind} from {name}; give "
            "other data or another model, as `ezo list` names them"
        )


def load(run: Run | Settled, root: Path | None = None) -> Dataset:
    """The run's data: cut to ``train_examples``, with ``held_out`` in place of the test set.

    Raises:
        ValueError: the model takes another kind of input, or the data set has too few examples.
    """
    settled = run.settled()
    run = settled.run
    data: Dataset = settled.files["data"].load(run.data, root)
    expect_kind(run.model, settled.files["model"], run.data, data)
    n = len(data.train_x) - run.held_out
    examples = min(n, run.train_examples or n)
    if examples < run.batch_size:
        beside = (
            f" beside {run.held_out:,} held out of {n + run.held_out:,}" if run.held_out else ""
        )
        raise ValueError(
            f"expected at least one batch of {run.batch_size} examples, got {max(examples, 0)} "
            f"from {run.data}{beside}; lower {'held_out or ' if beside else ''}the batch size"
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
    return replace(data, train_x=x[:examples], train_y=y[:examples], test_x=test[0], test_y=test[1])


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
