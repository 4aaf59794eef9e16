"""The one training loop: a `Run` in, rows out, resumable at any step to the same bits."""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from ezo import catalogue, checkpoint, rows
from ezo.data import Dataset
from ezo.methods._hyper import tuned
from ezo.precisions import Trainer
from ezo.rows import Row


@dataclass(frozen=True)
class Run:
    """Everything that the result of a training run depends on.

    Attributes:
        model, data, method, precision: names that ``ezo list`` shows.
        epochs: passes over the training data. Batches are full: a remainder waits for the next
            epoch's shuffle.
        batch_size: examples per step.
        seed: of initial weights, order of batches, and noise.
        train_examples: use only so many training examples, or None for all; for trials.
        held_out: keep the last so many training examples for validation, and report on them in
            place of the test set; for choosing hyperparameters.
        hyper: hyperparameters, of the precision's kind (``HYPER`` in its file); None for those in
            ``tuned.json``, else the default ones.
        start: `case` of a finished fp32 run of the same model whose final weights this one starts
            from (fine-tuning), or nothing for fresh weights.
    """

    model: str
    data: str
    method: str
    precision: str = "fp32"
    epochs: int = 20
    batch_size: int = 32
    seed: int = 0
    train_examples: int | None = None
    held_out: int = 0
    hyper: Any = None
    start: str = ""

    def settled(self) -> "Run":
        """The run with its hyperparameters filled in and its names and numbers checked.

        Raises:
            ValueError: a name is unknown, a number out of range, or the method has no form in this
                precision.
        """
        for kind in catalogue.OF_A_RUN:
            catalogue.find(kind, getattr(self, kind))
        for name, least in (("epochs", 0), ("batch_size", 1), ("seed", 0), ("held_out", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"expected {name} of {least} or more, got {getattr(self, name)}")
        if self.train_examples is not None and self.train_examples < 1:
            raise ValueError(
                f"expected train_examples of 1 or more, or None for all, got {self.train_examples}"
            )
        precision = catalogue.find("precision", self.precision)
        hyper = self.hyper or tuned(self.model, self.data, self.method, self.precision)
        if not isinstance(hyper, precision.HYPER):
            raise ValueError(
                f"expected {precision.HYPER.__name__} for {self.precision}, got "
                f"{type(hyper).__name__}; give hyperparameters of the precision's kind"
            )
        precision.check(self.method, hyper)
        return replace(self, hyper=hyper)

    def settings(self) -> dict[str, Any]:
        """Every setting, flat."""
        settings = self._as_dict()
        hyper = settings.pop("hyper")
        return {**settings, **hyper}

    def config(self) -> dict[str, Any]:
        """Settings that are no field of a row of their own, flat."""
        own = ("model", "data", "method", "precision", "seed")
        return {name: value for name, value in self.settings().items() if name not in own}

    @property
    def case(self) -> str:
        """A name for the run that differs wherever a setting does."""
        named = self._as_dict()
        for field in fields(self.settled().hyper):
            if field.metadata.get("later") and named["hyper"][field.name] == field.default:
                del named["hyper"][field.name]
        settings = json.dumps(named, sort_keys=True)
        tag = hashlib.sha256(settings.encode()).hexdigest()[:8]
        precision = self.precision.replace("*", "star")  # the name is also a file's
        return f"{self.model}-{self.data}-{self.method}-{precision}-seed{self.seed}-{tag}"

    def _as_dict(self) -> dict[str, Any]:
        settings = asdict(self.settled())
        if not self.start:  # the name of a run that starts afresh is as before there were others
            del settings["start"]
        return settings


def build(run: Run, classes: int, channels: int) -> nn.Module:
    """The run's model at its initial weights; torch's global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        return catalogue.find("model", run.model).build(run.model, classes, channels)


def load_start(model: nn.Module, run: Run, runs: Path | None) -> None:
    """Give a model the final weights of the run that ``run.start`` names.

    Args:
        model: what `build` made of ``run``.
        runs: folder that holds each run's folder, ``runs/case``.

    Raises:
        ValueError: the run to start from is not there, did not finish, or is of another model.
    """
    if runs is None:
        raise ValueError(
            f"expected a folder where {run.start} lies, for its weights are the start; give an "
            "out beside that run's"
        )
    folder = runs / run.start
    ended = rows.read(folder / "rows.jsonl") if (folder / "rows.jsonl").exists() else []
    if not ended or ended[-1].metric != "finished":
        raise ValueError(
            f"{folder}: expected a finished run, whose weights {run.case} starts from, got "
            f"{ended[-1].metric if ended else 'none'}; train it first"
        )
    theirs = (ended[-1].model, ended[-1].precision)
    if theirs != (run.model, "fp32"):
        raise ValueError(
            f"expected start to be a run of {run.model} in fp32, got one of {' in '.join(theirs)}"
        )
    model.load_state_dict(checkpoint.load(folder / "checkpoint.safetensors")["model"])


def load(run: Run, root: Path | None = None) -> Dataset:
    """The run's data: cut to ``train_examples``, with ``held_out`` in place of the test set.

    Raises:
        ValueError: the model takes another kind of input, or the data set has too few examples.
    """
    data: Dataset = catalogue.find("data", run.data).load(run.data, root)
    kind = "image" if data.train_x.dim() == 4 else "points"
    wanted = catalogue.find("model", run.model).INPUT
    if kind != wanted:
        raise ValueError(f"expected data of {wanted} for {run.model}, got {kind} from {run.data}")
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
    test = (data.train_x[n:], data.train_y[n:]) if run.held_out else (data.test_x, data.test_y)
    if examples == len(data.train_x):
        return data
    return replace(
        data,
        train_x=data.train_x[:examples],
        train_y=data.train_y[:examples],
        test_x=test[0],
        test_y=test[1],
    )


def train(
    run: Run,
    *,
    root: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
    checkpoint_steps: int = 1000,
    progress: bool = False,
) -> Iterator[Row]:
    """Train, and yield a row for each number measured, when it is.

    At step 0 and after each epoch: ``test_accuracy`` (%), ``test_loss``; after each epoch also
    ``train_loss`` (mean over its steps), ``train_seconds`` (since the start, without evaluation)
    and ``forward_passes`` (of a batch, since the start). Last: ``finished``, whose note is the
    weights' digest, or ``diverged``, whose note is the reason; both give the step.

    Args:
        run: what to train.
        root: where data sets lie; None for ``EZO_DATA``, else ``data``.
        out: folder for ``rows.jsonl`` and ``checkpoint.safetensors``; a run found there goes on
            where it stopped, and its earlier rows come first. None keeps nothing. The run that
            ``run.start`` names is looked for beside it.
        device: ``cpu``, ``cuda`` or any torch device.
        checkpoint_steps: steps between checkpoints, besides one after each epoch.
        progress: show a progress bar on stderr.
    """
    loop = _Loop(run.settled(), root, out, torch.device(device), checkpoint_steps)
    yield from loop.earlier_rows
    if loop.ended:
        return
    with tqdm(
        total=loop.total_steps,
        initial=loop.step,
        desc=run.case,
        unit="step",
        disable=not progress,
        mininterval=0.5,
    ) as bar:
        yield from loop.rows(bar)


class _Loop:
    """The state of a run while it runs."""

    def __init__(
        self,
        run: Run,
        root: Path | None,
        out: Path | None,
        device: torch.device,
        checkpoint_steps: int,
    ) -> None:
        if checkpoint_steps < 1:
            raise ValueError(f"expected checkpoint_steps of 1 or more, got {checkpoint_steps}")
        self.run, self.out, self.device, self.checkpoint_steps = run, out, device, checkpoint_steps
        data = load(run, root)
        self.data_checksum = data.checksum
        channels = data.train_x.shape[1 if data.train_x.dim() == 4 else 2]
        model = build(run, data.classes, channels)
        if run.start:
            load_start(model, run, out.parent if out else None)
        self.trainer: Trainer = catalogue.find("precision", run.precision).trainer(
            run.precision, model, data, run.method, run.hyper, run.seed, device
        )
        self.steps_per_epoch = len(data.train_x) // run.batch_size
        self.total_steps = run.epochs * self.steps_per_epoch
        self.step = 0
        self.seconds = 0.0
        self.forward_passes = 0
        self.loss_sum: float = 0  # over this epoch's steps
        self.random_state = torch.Generator().manual_seed(run.seed).get_state()
        self.ended = False
        self.earlier_rows: list[Row] = []
        self.rows_bytes = 0
        if out is not None:
            self._resume(out)

    def rows(self, bar: tqdm) -> Iterator[Row]:
        measured = self.earlier_rows
        if self.step == 0 and not measured:
            measured = self._evaluate()
            yield from self._keep(measured)
        while self.step < self.total_steps:
            until = min(
                (self.step // self.steps_per_epoch + 1) * self.steps_per_epoch,
                (self.step // self.checkpoint_steps + 1) * self.checkpoint_steps,
            )
            reason = self._train(until, bar)
            if reason:
                self.ended = True
                yield from self._keep([self._diverged(reason)])
                return
            if self.step % self.steps_per_epoch == 0:
                measured = [
                    self._row("train_loss", self._train_loss(), "nat"),
                    self._row("train_seconds", self.seconds, "s"),
                    self._row("forward_passes", self.forward_passes, "pass"),
                    *self._evaluate(),
                ]
                self.loss_sum = 0
                yield from self._keep(measured)
            else:
                self._checkpoint()
        self.ended = True
        if all(row.value is not None and math.isfinite(row.value) for row in measured[-1:]):
            weights = checkpoint.digest(self.trainer.model.state_dict())
            yield from self._keep([self._row("finished", self.step, "step", weights)])
        else:
            yield from self._keep([self._diverged("the test loss is not finite")])

    def _train(self, until: int, bar: tqdm) -> str:
        """Train to step ``until``; returns why the run diverged, or nothing."""
        trainer, batch = self.trainer, self.run.batch_size
        epoch = self.step // self.steps_per_epoch
        order = torch.randperm(len(trainer.train_x), generator=_generator(self.run.seed, epoch))
        order = order.to(self.device)
        passes = trainer.passes
        with self._own_random_state():
            started = time.perf_counter()
            try:
                while self.step < until:
                    k = self.step % self.steps_per_epoch
                    chosen = order[k * batch : (k + 1) * batch]
                    x, y = trainer.batch(chosen, _generator(self.run.seed, epoch, k))
                    loss = trainer.step(x, y, self.step, self.total_steps)
                    if not math.isfinite(loss):
                        return f"the loss is {loss}"
                    self.loss_sum += loss
                    self.step += 1
                    bar.update()
                return ""
            finally:
                self.seconds += time.perf_counter() - started
                self.forward_passes += trainer.passes - passes

    def _train_loss(self) -> float:
        """Mean over this epoch's steps, in nats."""
        steps, batch = self.steps_per_epoch, self.run.batch_size
        return self.trainer.mean_loss(self.loss_sum, steps, batch)

    def _evaluate(self) -> list[Row]:
        accuracy, loss = self.trainer.evaluate()
        note = "on held-out training examples" if self.run.held_out else ""
        return [
            self._row("test_accuracy", accuracy, "%", note),
            self._row("test_loss", loss, "nat", note),
        ]

    def _diverged(self, reason: str) -> Row:
        note = f"{reason} at step {self.step}; lower the learning rate or clip g"
        return self._row("diverged", self.step, "step", note)

    def _row(self, metric: str, value: float, unit: str, note: str = "") -> Row:
        run = self.run
        return Row(
            case=run.case,
            metric=metric,
            value=value,
            unit=unit,
            note=note,
            model=run.model,
            data=run.data,
            method=run.method,
            precision=run.precision,
            seed=run.seed,
            step=self.step,
            config=run.config(),
            device=str(self.device),
            threads=torch.get_num_threads(),
            data_checksum=self.data_checksum,
            **rows.provenance(),
        )

    def _keep(self, measured: list[Row]) -> list[Row]:
        """Write rows and a checkpoint that knows of them."""
        if self.out is not None:
            path = self.out / "rows.jsonl"
            rows.write(path, measured, append=True)
            self.rows_bytes = path.stat().st_size
            self._checkpoint()
        return measured

    def _checkpoint(self) -> None:
        if self.out is None:
            return
        checkpoint.save(
            self.out / "checkpoint.safetensors",
            {
                "case": self.run.case,
                "data_checksum": self.data_checksum,
                "settings": self.run.settings(),
                "model": dict(self.trainer.model.state_dict()),
                "optimizer": self.trainer.optimizer.state_dict(),
                "random_state": self.random_state,
                **{name: getattr(self, name) for name in self._COUNTERS},
            },
        )

    _COUNTERS = ("step", "seconds", "forward_passes", "loss_sum", "rows_bytes", "ended")

    def _resume(self, out: Path) -> None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(
                f"expected a folder, or a place for one, got {out}: {error.strerror}; "
                "give another --out"
            ) from error
        path, rows_path = out / "checkpoint.safetensors", out / "rows.jsonl"
        if not path.exists():
            rows_path.unlink(missing_ok=True)
            return
        state = checkpoint.load(path)
        self._refuse_another(path, state)
        self.trainer.model.load_state_dict(state["model"])
        self.trainer.optimizer.load_state_dict(state["optimizer"])
        self.random_state = state["random_state"]
        for name in self._COUNTERS:
            setattr(self, name, state[name])
        size = rows_path.stat().st_size if rows_path.exists() else None
        if size is None or size < self.rows_bytes:
            raise ValueError(
                f"{rows_path}: expected {self.rows_bytes} bytes of rows or more, as {path.name} "
                f"says, got {'no file' if size is None else size}; bring them back, or remove the "
                "folder to start again"
            )
        with rows_path.open("r+b") as file:  # rows that the checkpoint doesn't know come again
            file.truncate(self.rows_bytes)
        self.earlier_rows = rows.read(rows_path)

    def _refuse_another(self, path: Path, state: dict[str, Any]) -> None:
        settings = state.get("settings", {})  # checkpoints of old hold none
        ours = {"case": self.run.case, "data_checksum": self.data_checksum, **self.run.settings()}
        theirs = {"case": state["case"], "data_checksum": state["data_checksum"], **settings}
        differing = [name for name in theirs if theirs[name] != ours.get(name)]
        if differing:
            named = [name for name in differing if name in settings] or differing
            raise ValueError(
                f"{path}: expected {', '.join(f'{name} {ours.get(name)}' for name in named)}, "
                f"got {', '.join(f'{name} {theirs[name]}' for name in named)}: another run "
                "or other data; give another --out, or remove the folder"
            )

    @contextlib.contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Within, torch's global generators are this run's; outside, as the caller left them."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.random_state)
            if devices:
                torch.cuda.manual_seed(_seed(self.run.seed, self.step))
            yield
            self.random_state = torch.get_rng_state()


def _seed(*numbers: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(numbers).encode()).digest()[:8], "little") >> 1


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(_seed(*numbers))
