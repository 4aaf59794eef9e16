"""The one training loop: a `Run` in, rows out, resumable at any step to the same bits."""

import contextlib
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ezo import checkpoint, restore, rows
from ezo.examples import Examples, generator, seed_of
from ezo.journal import Journal, weights
from ezo.journal.writer import expect_unused
from ezo.lock import alone_in
from ezo.precisions import Step
from ezo.ranks import Exchange, Ranks
from ezo.rows import Row
from ezo.run import Run, Settled, begin, build, load, load_start

__all__ = ["Run", "build", "load", "load_start", "train"]


def train(
    run: Run | Settled,
    *,
    root: Path | None = None,
    out: Path | None = None,
    device: str = "cpu",
    checkpoint_steps: int = 1000,
    progress: bool = False,
    wait: bool = False,
    journal: Path | None = None,
    ranks: Ranks | None = None,
) -> Iterator[Row]:
    """Train, and yield a row for each number measured, when it is.

    At step 0 and after each epoch: ``test_accuracy`` (%), ``test_loss``, and in integers
    ``test_accuracy_static``, of predictions that depend on no other example; after each epoch also
    ``train_loss`` (mean over its steps), ``train_seconds`` (since the start, without evaluation)
    and ``forward_passes`` (of a batch, since the start). Last: ``finished``, whose note is the
    weights' digest, or ``diverged``, whose note is the reason; both give the step. By several ranks
    also ``sent_bytes``, of a step and rank, before that.

    Args:
        root: where data sets lie; None for ``EZO_DATA``, else ``data``.
        out: folder for ``rows.jsonl`` and ``checkpoint.safetensors``; a run found there goes on
            where it stopped, and its earlier rows come first. None keeps nothing. The run that
            ``run.start`` names is looked for beside it.
        device: ``cpu``, ``cuda`` or any torch device.
        checkpoint_steps: steps between checkpoints, besides one after each epoch.
        progress: show a progress bar on stderr.
        wait: until another process that works in ``out`` has ended, in place of an error.
        journal: file that keeps what each step applied (`ezo.journal`); beside it, under its name
            with ``.init.safetensors`` in place of the suffix, come the weights that it began with.
        ranks: train with the other ranks of `torch.distributed`; rank 0 alone writes, and all read
            the checkpoint in ``out``.

    Raises:
        ValueError: what is asked for can't be trained, or another process works in ``out``, or what
            lies there is of another run or damaged.
        OSError: ``out`` can't be written to.
    """
    settled = run.settled()
    loop = _Loop(settled, root, out, torch.device(device), checkpoint_steps, ranks)
    steps: dict[str, Any] = {"total": loop.total_steps, "unit": "step"}
    alone = out is not None and loop.writes
    with alone_in(out, wait=wait) if alone and out else contextlib.nullcontext():
        if out is not None:
            loop.resume_in_turn(out)
        yield from loop.earlier_rows
        if loop.ended:
            return
        if journal is not None and loop.writes:
            loop.keep_journal(journal)
        steps["initial"] = loop.begun = loop.step
        with tqdm(**steps, desc=settled.case, disable=not progress, mininterval=0.5) as bar:
            yield from loop.rows(bar)


class _Loop:
    """The state of a run while it runs."""

    def __init__(
        self,
        settled: Settled,
        root: Path | None,
        out: Path | None,
        device: torch.device,
        checkpoint_steps: int,
        ranks: Ranks | None = None,
    ) -> None:
        if checkpoint_steps < 1:
            raise ValueError(f"expected checkpoint_steps of 1 or more, got {checkpoint_steps}")
        self.settled, self.out, self.device = settled, out, device
        self.run, self.checkpoint_steps = settled.run, checkpoint_steps
        run, precision = settled.run, settled.files["precision"]
        data = load(settled, root)
        self.data_checksum = data.checksum
        self.inputs = restore.inputs_of(data)
        model = build(settled, data.classes, data.channels, data.size)
        begin(model, settled, data)
        if run.start:
            load_start(model, settled, out.parent if out else None)
        how: dict[str, Any] = {"device": device, **({"ranks": ranks} if ranks else {})}
        if run.estimator != Run.estimator:  # a precision of another package need not know of it
            how["estimator"] = run.estimator
        self.take_step: Step = precision.make_step(
            run.precision, model, run.method, run.hyper, run.seed, **how
        )
        if run.chunk:
            self.take_step.stream(run.chunk)
        self.model, self.optimizer = self.take_step.model, self.take_step.optimizer
        self.exchange: Exchange | None = self.optimizer.exchange if ranks else None
        self.writes = self.exchange is None or self.exchange.rank == 0
        self.share = self.exchange.share(run.batch_size) if self.exchange else slice(None)
        self.examples = Examples(data, self.take_step, device)
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
        self.journal: Journal | None = None
        self.begun = 0  # the step at which this process began

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
                of = self.steps_per_epoch, self.run.batch_size
                measured = [
                    self._row("train_loss", self.take_step.mean_loss(self.loss_sum, *of), "nat"),
                    self._row("train_seconds", self.seconds, "s"),
                    self._row("forward_passes", self.forward_passes, "pass"),
                    *self._evaluate(),
                ]
                self.loss_sum = 0
                yield from self._keep(measured)
            else:
                self._checkpoint()
        if self.exchange is not None:
            yield from self._keep([self._sent(self.exchange)])
        self.ended = True
        if all(row.value is not None and math.isfinite(row.value) for row in measured[-1:]):
            digest = checkpoint.digest(self.model.state_dict())
            yield from self._keep([self._row("finished", self.step, "step", digest)])
        else:
            yield from self._keep([self._diverged("the test loss is not finite")])

    def _train(self, until: int, bar: tqdm) -> str:
        """Train to step ``until``; returns why the run diverged, or nothing."""
        take_step, batch = self.take_step, self.run.batch_size
        epoch = self.step // self.steps_per_epoch
        order = torch.randperm(len(self.examples), generator=generator(self.run.seed, epoch))
        order = order.to(self.device)
        passes = take_step.passes
        with self._own_random_state():
            self.model.train()
            started = time.perf_counter()
            try:
                while self.step < until:
                    k = self.step % self.steps_per_epoch
                    chosen = order[k * batch : (k + 1) * batch]
                    x, y = self.examples.batch(chosen, generator(self.run.seed, epoch, k))
                    take_step.schedule(self.step, self.total_steps)
                    loss = take_step(x[self.share], y[self.share])
                    loss = loss.item() if isinstance(loss, Tensor) else loss
                    if not math.isfinite(loss):
                        return f"the loss is {loss}"
                    self.loss_sum += loss
                    self.step += 1
                    bar.update()
                if self.device.type == "cuda":
                    torch.cuda.synchronize(self.device)  # the last update is of these seconds
                return ""
            finally:
                self.seconds += time.perf_counter() - started
                self.forward_passes += take_step.passes - passes

    def _evaluate(self) -> list[Row]:
        if self.exchange is not None:
            self.optimizer.synchronise()
        accuracy, loss = self.take_step.evaluate(self.examples.test_x, self.examples.test_y)
        note = "on held-out training examples" if self.run.held_out else ""
        of = (self.examples.test_x, self.examples.test_y, self.examples.seen)
        alone = self.take_step.static_accuracy(*of)
        found = [("test_accuracy", accuracy, "%"), ("test_loss", loss, "nat")]
        if alone is not None:
            found.insert(1, ("test_accuracy_static", alone, "%"))
        return [self._row(*of, note) for of in found]

    def _sent(self, exchange: Exchange) -> Row:
        """What a rank sent in a step, but for checks, since the run began or went on."""
        weights = sum(p.numel() for p in self.model.parameters())
        value, note = exchange.told(max(self.step - self.begun, 1), weights)
        return self._row("sent_bytes", value, "B", note)

    def _diverged(self, reason: str) -> Row:
        note = f"{reason} at step {self.step}; lower the learning rate or clip g"
        return self._row("diverged", self.step, "step", note)

    def _row(self, metric: str, value: float, unit: str, note: str = "") -> Row:
        own = ("model", "data", "method", "precision", "seed")
        return Row(
            self.settled.case,
            metric,
            value,
            unit,
            **{name: getattr(self.run, name) for name in own},
            step=self.step,
            note=note,
            config=self.settled.config,
            device=str(self.device),
            threads=torch.get_num_threads(),
            data_checksum=self.data_checksum,
            **rows.provenance(),
        )

    def _keep(self, measured: list[Row]) -> list[Row]:
        """Write rows and a checkpoint that knows of them."""
        if self.out is not None and self.writes:
            path = self.out / "rows.jsonl"
            rows.write(path, measured, append=True)
            self.rows_bytes = path.stat().st_size
        self._checkpoint()
        return measured

    def keep_journal(self, path: Path) -> None:
        """From here on.

        Raises:
            ValueError: another run's journal lies there, or one of a run that ended.
        """
        about = {"case": self.settled.case, "data_checksum": self.data_checksum[:16]}
        if self.step == 0:
            expect_unused(path, about)
            weights.save(path.with_suffix(".init.safetensors"), self.model.state_dict())
        self.journal = Journal(path, self.model, self.optimizer, about=about, resume=self.step > 0)

    def _checkpoint(self) -> None:
        if self.exchange is not None:
            self.optimizer.synchronise()
        if self.journal is not None:
            self.journal.close() if self.ended else self.journal.mark()
        if self.out is None or not self.writes:
            return
        checkpoint.save(
            self.out / "checkpoint.safetensors",
            {
                "case": self.settled.case,
                "data_checksum": self.data_checksum,
                "settings": self.settled.settings,
                "inputs": self.inputs,
                "model": dict(self.model.state_dict()),
                "optimizer": self.optimizer.state_dict(),
                "random_state": self.random_state,
                **{name: getattr(self, name) for name in self._COUNTERS},
            },
        )

    _COUNTERS = {
        **{"step": int, "seconds": float, "forward_passes": int},
        **{"loss_sum": float, "rows_bytes": int, "ended": bool},
    }

    def resume_in_turn(self, out: Path) -> None:
        """`resume`, on rank 0 first: what it has to put right there, the others find so."""
        if self.exchange is None:
            self.resume(out)
            return
        for turn in (True, False):
            if self.writes == turn:
                self.resume(out)
            found = [step for (step,) in self.exchange.gathered([self.step], "checks")]
        if len({*found}) > 1:
            raise ValueError(
                f"expected all ranks to go on from one checkpoint, got steps {found}; give an "
                "--out that all of them reach"
            )

    def resume(self, out: Path) -> None:
        """Go on from what lies in a folder, if anything does."""
        path, rows_path = out / "checkpoint.safetensors", out / "rows.jsonl"
        if not path.exists():
            restore.forget(rows_path, self.settled.case)
            return
        state = checkpoint.load(path)
        restore.refuse_another(path, state, self.settled, self.data_checksum)
        with checkpoint.expected(path, f"the state of {self.settled.case}"):
            checkpoint.restore(self.model, self.optimizer, state)
            self.random_state = torch.Generator().set_state(state["random_state"]).get_state()
            for name, kind in self._COUNTERS.items():
                restore.expect_counter(name, state[name], kind)
                setattr(self, name, state[name])
            if self.step > self.total_steps:
                raise ValueError(f"step {self.step:,} of {self.total_steps:,}")
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
        with checkpoint.expected(path, f"a state that fits {rows_path.name}"):
            if self.ended != (self.earlier_rows[-1].metric in ("finished", "diverged")):
                raise ValueError(f"its end is {self.ended}")

    @contextlib.contextmanager
    def _own_random_state(self) -> Iterator[None]:
        """Within, torch's global generators are this run's; outside, as the caller left them."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            torch.set_rng_state(self.random_state)
            if devices:
                torch.cuda.manual_seed(seed_of(self.run.seed, self.step))
            yield
            self.random_state = torch.get_rng_state()
