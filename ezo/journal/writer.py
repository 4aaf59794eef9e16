"""Writing a journal while a run goes on."""

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import torch

from ezo.checkpoint import is_exponent
from ezo.elastic import Elastic
from ezo.files import replaced, unwritten
from ezo.journal import chunk, records, tail
from ezo.journal.setup import flat, set_up
from ezo.journal.weights import digest, entries

CHUNK_STEPS = 4096


class Journal:
    """Keeps each step of an optimiser in a file, from which `ezo.journal.replay` repeats it.

    From where it is made until it is closed every ``optimizer.step`` is kept. Steps are held in
    memory until `mark`, or until there are `CHUNK_STEPS` of them. What a mark has written outlives
    a kill.

    Args:
        path: the file; one that is there is replaced, but for a journal to go on with.
        model, optimizer: before the first step; or, with ``resume``, as they stood at a mark of the
            journal that lies there, which goes on from there.
        about: what a reader should know of the run; plain values.
        resume: go on with the journal in ``path``.

    Raises:
        ValueError: the optimiser has taken steps, or they can't be repeated; or what lies in
            ``path`` is no journal of this run up to this step.
        OSError: the file can't be written.

    Example:
        >>> import tempfile, ezo
        >>> model = torch.nn.Linear(4, 2)
        >>> optimizer = ezo.ElasticZO(model, bp=0)
        >>> path = Path(tempfile.mkdtemp()) / "run.ezoj"
        >>> with Journal(path, model, optimizer):
        ...     loss = optimizer.step(lambda: model(torch.ones(3, 4)).square().mean())
    """

    def __init__(
        self,
        path: Path | str,
        model: torch.nn.Module,
        optimizer: Elastic,
        *,
        about: Mapping[str, Any] | None = None,
        resume: bool = False,
    ) -> None:
        self.path, self._model, self._optimizer = Path(path), model, optimizer
        self._steps: list[chunk.Applied] = []
        self._loose: dict[str, torch.Tensor] = {}
        self._setup = set_up(model, optimizer)
        state = model.state_dict()
        every = entries(model).items()
        self._names = [names for name, (_, names) in every if not is_exponent(name, state)]
        begun = {
            "kind": optimizer.KIND,
            "about": dict(about or {}),
            "names": self._names,
            "init": digest(state, self._names),
        }
        if self.path.exists() and self.path.stat().st_size:  # a kill may have left it empty
            there, _ = records.read(self.path)  # which refuses what is no journal
            if resume:
                self._go_on(there, begun)
                return self._watch()
        if optimizer._steps or resume:
            raise ValueError(
                f"expected {'a journal in ' if resume else 'an optimiser at its first step for '}"
                f"{self.path}, got {'none' if resume else f'one after {optimizer._steps} steps'}; "
                "begin the journal before the run"
            )
        self._end = self._written = 0
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = self.path.open("wb")
            self._file.write(records.START)
        except OSError as error:
            raise unwritten(self.path, error) from error
        self._crc = zlib.crc32(records.START)
        self._put("H", records.text(begun))
        self._put("S", self._setup.pack())
        self._file.flush()
        self._watch()

    def _watch(self) -> None:
        self._look()
        self._hook = self._optimizer.register_step_post_hook(lambda *_: self._record())

    def _go_on(self, there: list[records.Record], begun: dict[str, Any]) -> None:
        """Cut the file behind the optimiser's step, and write there."""
        wanted = self._optimizer._steps
        told = records.value(there[0].body) if there and there[0].kind == "H" else {}
        ours = {name: begun[name] for name in ("kind", "about", "names")}
        if {name: told.get(name) for name in ours} != ours:
            raise ValueError(
                f"{self.path}: expected the journal of this run, got another's; give another "
                "--journal, or the run's own folder"
            )
        ends = {0: 0}  # records that hold so many steps
        for i, record in enumerate(there):
            if record.kind == "C":
                ends[chunk.numbers(record.body).end] = i + 1
            elif record.kind == "T" and (at := tail.step(record.body)) in ends:
                ends[at] = i + 1
            elif record.kind in "HS" and ends == {0: i}:
                ends[0] = i + 1
        if wanted not in ends:
            last = max(ends)
            raise ValueError(
                f"{self.path}: expected a journal that was marked at step {wanted:,}, where the "
                f"run goes on, got one that reaches {last:,}; begin the run again, or leave out "
                "the journal"
            )
        kept = there[: ends[wanted]]
        latest = [record.body for record in kept if record.kind == "S"][-1]
        self._end = self._written = wanted
        self._crc = kept[-1].crc
        self._file = self.path.open("r+b")
        self._file.truncate(kept[-1].end)
        self._file.seek(0, os.SEEK_END)
        if latest != self._setup.pack():
            self._put("S", self._setup.pack())

    def _record(self) -> None:
        """Keep the step that ended just now."""
        optimizer = self._optimizer
        now = set_up(self._model, optimizer) if self._setup.differs(optimizer) else self._setup
        updates = [of[0] for of in optimizer.applied]
        queries = {len(of) for _, of in self._steps[-1:]} | {len(updates)} - {0}
        if now is not self._setup or len(queries) > 1:
            self._flush()
        if now is not self._setup:
            self._setup = now
            self._put("S", now.pack())
        self._end = optimizer._steps
        if updates:
            self._steps.append((updates[0].step, updates))
        if self._end - self._written >= CHUNK_STEPS:
            self._flush()

    def _flush(self) -> None:
        if self._end == self._written:
            return
        self._look()
        self._put("C", chunk.pack(self._end, self._steps, self._setup.wide))
        self._written, self._steps = self._end, []

    def _look(self) -> None:
        """For weights that sweeps may round, so that their values have to ride along."""
        for name, at in self._setup.loose().items():
            old = self._loose.get(name, at)
            self._loose[name] = torch.cat([old, at]).unique()

    def mark(self) -> None:
        """Write all steps so far, and the tail; the run can be repeated to here, and go on here."""
        self._flush()
        if riding := self._riding():
            self._put("T", tail.pack(self._end, riding))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _riding(self) -> dict[str, torch.Tensor]:
        drawn = {id(p) for p in self._setup.tensors}
        free = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        found = {name: t for name, (t, _) in entries(self._model).items()}
        loose: dict[str, torch.Tensor] = {}
        for name, at in self._loose.items():
            loose |= {name + tail.AT: at, name + tail.TO: flat(found[name])[at]}
        return loose | {
            name: t
            for name, t in found.items()
            if id(t) not in drawn and (id(t) in free or not isinstance(t, torch.nn.Parameter))
            if name.endswith("static_exponents") or not is_exponent(name, found)
        }

    def close(self) -> None:
        """Write the rest, and the digest of the final weights; of the tails the last one stays."""
        if self._file.closed:
            return
        self._hook.remove()
        self.mark()
        final = digest(self._model.state_dict(), self._names)
        self._put("E", records.text({"steps": self._end, "final": final}))
        self._file.close()
        _compact(self.path)

    def _put(self, kind: str, body: bytes) -> None:
        packed, self._crc = records.pack(kind, body, self._crc)
        try:
            self._file.write(packed)
        except OSError as error:
            raise unwritten(self.path, error) from error

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self.close()


def _compact(path: Path) -> None:
    """Leave out every tail but the last."""
    found, _ = records.read(path)
    tails = [record for record in found if record.kind == "T"]
    if len(tails) < 2:
        return
    crc = zlib.crc32(records.START)
    with replaced(path) as beside, beside.open("wb") as file:
        file.write(records.START)
        for record in found:
            if record.kind != "T" or record is tails[-1]:
                packed, crc = records.pack(record.kind, record.body, crc)
                file.write(packed)


def expect_unused(path: Path, about: Mapping[str, Any]) -> None:
    """That no steps lie there, but of this run, where it had not ended and begins again.

    Raises:
        ValueError: they do.
    """
    if not path.exists() or not path.stat().st_size:
        return
    there, _ = records.read(path)
    heads = [chunk.numbers(record.body).end for record in there if record.kind == "C"]
    with records.understood(path):
        whose = records.value(there[0].body)["about"] if there else {}
    ended = bool(there) and there[-1].kind == "E"
    if heads and (ended or whose != about):
        raise ValueError(
            f"expected a --journal that holds no steps of another run, got {path} with "
            f"{heads[-1]:,}; give another, or remove it"
        )
