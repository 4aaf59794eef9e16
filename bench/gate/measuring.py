"""Compares two built sides, cell by cell: bytes and bits in one process each, times in pairs."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.gate import judging
from bench.gate.judging import NOT_MEASURED, OK, REGRESSED, Finding, Sample
from bench.gate.sides import NotMeasured, Process, Side
from bench.probe import PLANTS
from bench.progress import Progress
from bench.timing import CLOCKS, turns
from bench.workload import Workload

SIDES = ("base", "head")
ROUNDS = 4  # of a pair
VISIT_SECONDS, VISIT_STEPS = 0.1, 3  # a visit takes at least both


def _option(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    """A setting, with what ``python -m bench gate --help`` says of it."""
    return field(default=default, metadata={"help": text, "choices": choices or None})


@dataclass
class Settings:
    """What the gate allows, and how long it measures."""

    tolerance: float = _option(0.05, "slower by more than this share of the step time fails")
    bytes_tolerance: int = _option(0, "more peak bytes than this fail")
    allow_digest_change: bool = _option(False, "other weights than before are meant")
    allow_new: bool = _option(False, "cells that base does not have are meant")
    pairs: int = _option(4, "of processes, at least")
    most_pairs: int = _option(24, "pairs while it can't be told")
    clock: str = _option(
        "wall",
        "cpu: seconds that the processor worked, which other processes lengthen less; it does not "
        "see waiting, and is refused on CUDA, where events time a step",
        tuple(CLOCKS),
    )
    only: str = _option("", "bytes and digests, or time", ("exact", "time"))
    plant: str = _option("", "plant a fault in head, to see the gate find it", PLANTS)


class _Failed(Exception):
    def __init__(self, errors: dict[str, str]) -> None:
        super().__init__(errors)
        self.errors = errors


def _of_both(ask: Callable[[str], Any], labels: Iterable[str]) -> list[Any]:
    """Both sides' answers.

    Raises:
        _Failed: a side has none.
    """
    answers, errors = [], {}
    for label in labels:
        try:
            answers.append(ask(label))
        except NotMeasured as error:
            errors[label] = str(error)
    if errors:
        raise _Failed(errors)
    return answers


class Gate:
    """Compares two built sides, cell by cell."""

    def __init__(self, sides: dict[str, Side], settings: Settings) -> None:
        self.sides, self.settings = sides, settings

    def compare(self, cells: Sequence[Workload]) -> list[Finding]:
        """Every cell in every respect."""
        found: list[Finding] = []
        if self.settings.only != "time":
            # Two at a time: neither bytes nor bits depend on neighbours.
            with ThreadPoolExecutor(max_workers=2) as pool:
                found_of = pool.map(self._exact, cells)
                about = {"desc": "bytes and digests", "unit": "cells", "total": len(cells)}
                for few in Progress(found_of, **about):
                    found += few
        if self.settings.only != "exact":
            missing = {f.cell for f in found if f.metric == "cell"}
            found += self._times([cell for cell in cells if cell not in missing])
        return [self._defined(finding) for finding in found]

    def _defined(self, finding: Finding) -> Finding:
        """Nothing can be told where the sides measure a metric in two ways."""
        own = f"{finding.metric} on {torch.device(finding.cell.device).type}"
        told = [self.sides[label].definitions for label in SIDES]
        base, head = (of.get(own, of.get(finding.metric, 1)) for of in told)
        if base == head:
            return finding
        note = f"base measures it by definition {base}, head by {head}"
        return dataclasses.replace(finding, verdict="not measured", status=NOT_MEASURED, note=note)

    def _exact(self, cell: Workload) -> list[Finding]:
        def ask(label: str) -> dict[str, Any]:
            with Process(self.sides[label]) as process:
                return process.ask("exact", **self._command(label, cell))

        try:
            base, head = _of_both(ask, SIDES)
        except _Failed as failed:
            return [self._unmeasured(cell, failed.errors)]
        peak, allowed = "peak_tensor_bytes", self.settings.allow_digest_change
        return [
            judging.compare_bytes(cell, base[peak], head[peak], self.settings.bytes_tolerance),
            judging.compare_digests(cell, base["digest"], head["digest"], allowed),
        ]

    def _unmeasured(self, cell: Workload, errors: dict[str, str]) -> Finding:
        note = "; ".join(f"{label}: {error}" for label, error in errors.items())
        if len(errors) == 2:
            return Finding(cell, "cell", None, None, "not measured", NOT_MEASURED, note)
        if "head" in errors:
            return Finding(cell, "cell", "measured", None, "missing", REGRESSED, note)
        status = OK if self.settings.allow_new else REGRESSED
        if status == REGRESSED:
            note += "; where it is meant to be new, pass --allow-new"
        return Finding(cell, "cell", None, "measured", "new", status, note)

    def _times(self, cells: Sequence[Workload]) -> list[Finding]:
        settings = self.settings
        most = max(settings.pairs, settings.most_pairs)
        samples, failed = self._sample(cells, settings.pairs, most, "time")
        found = [self._unmeasured(cell, errors) for cell, errors in failed.items()]
        first = {
            cell: judging.judge_time(cell, s, settings.tolerance) for cell, s in samples.items()
        }
        slower = [cell for cell, finding in first.items() if finding.status == REGRESSED]
        if slower:
            pairs = max(settings.pairs, max(len(samples[cell]) for cell in slower))
            again, failed = self._sample(slower, pairs, pairs, "time, again")
            found += [self._unmeasured(cell, errors) for cell, errors in failed.items()]
            for cell, s in again.items():
                first[cell] = judging.confirm(
                    first[cell], judging.judge_time(cell, s, settings.tolerance)
                )
        return [*found, *first.values()]

    def _sample(
        self, cells: Sequence[Workload], pairs: int, most_pairs: int, name: str
    ) -> tuple[dict[Workload, list[list[Sample]]], dict[Workload, dict[str, str]]]:
        """Samples of each cell by pair and round; more pairs where the interval can't tell yet."""
        samples: dict[Workload, list[list[Sample]]] = {cell: [] for cell in cells}
        failed: dict[Workload, dict[str, str]] = {}
        undecided = list(cells)
        total: float = pairs * len(cells)  # at least
        with Progress(total=total, desc=name, unit="cells") as bar:
            for pair in range(most_pairs):
                if not undecided:
                    break
                bar.total = total = max(total, bar.n + len(undecided))
                with ExitStack() as both:
                    order = ("base", "head") if pair % 2 == 0 else ("head", "base")
                    processes = {label: Process(self.sides[label]) for label in order}
                    for process in processes.values():  # both are starting
                        both.callback(process.close)
                    for process in processes.values():
                        both.enter_context(process)
                    for cell in undecided:
                        try:
                            samples[cell].append(self._rounds(cell, processes))
                        except _Failed as error:
                            failed[cell] = error.errors
                        bar.update()
                undecided = [
                    cell
                    for cell in undecided
                    if cell not in failed
                    and (
                        pair + 1 < pairs
                        or judging.undecided_yet(samples[cell], self.settings.tolerance)
                    )
                ]
        return {c: s for c, s in samples.items() if c not in failed}, failed

    def _rounds(self, cell: Workload, processes: dict[str, Process]) -> list[Sample]:
        def prepare(label: str) -> float:
            found = processes[label].ask("prepare", **self._command(label, cell))
            return float(found["seconds"])

        longest = max(_of_both(prepare, processes))
        steps = max(VISIT_STEPS, round(VISIT_SECONDS / longest))

        def visit(label: str) -> float:
            command = {"steps": steps, "clock": self.settings.clock}
            return float(processes[label].ask("time", **command)["seconds"])

        visits = {label: lambda of=label: _of_both(visit, [of])[0] for label in SIDES}
        return [Sample(**{k: tuple(v) for k, v in t.items()}) for t in turns(visits, ROUNDS)]

    def _command(self, label: str, cell: Workload) -> dict[str, Any]:
        fields = {field.name: field.default for field in dataclasses.fields(cell)}
        given = {k: v for k, v in dataclasses.asdict(cell).items() if v != fields[k]}
        planted = self.settings.plant and label == "head"
        return {"cell": given, **({"plant": self.settings.plant} if planted else {})}
