"""The cells that ``python -m bench run`` measures, and the rows it keeps of them.

A cell is one case of a benchmark. `Kept` knows from ``rows.jsonl`` which cells were measured by
this source on this machine, so that a run that was stopped goes on where it was.
"""

import dataclasses
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from bench import peers
from bench.workload import CLASSES, Workload
from ezo import catalogue, rows
from ezo.rows import Row
from ezo.split import layers

BATCH_SIZE = 32  # where neither the grid nor the benchmark says
START_SECONDS = 4.0  # of a process that imports torch
FLOPS_PER_SECOND = 2e10  # of one core, roughly


@dataclass(frozen=True)
class Grid:
    """The product of these; what is None is left to the benchmark.

    A method ``elastic-*`` or ``tail-only-*`` stands for every split point of the model: 1 to one
    less than its number of parametric layers (0 is ``full-zo``, all is ``full-bp``).
    """

    models: Sequence[str]
    methods: Sequence[str] | None = None
    batch_size: Sequence[int] | None = None
    precision: Sequence[str] | None = None
    threads: Sequence[int] | None = None
    device: Sequence[str] | None = None
    data: Sequence[str] | None = None
    chunk: Sequence[int] | None = None

    def cells(self, benchmark: ModuleType) -> list[Any]:
        """Every case of a benchmark on this grid.

        Raises:
            ValueError: a name is unknown, a number is below 1, or the benchmark does not vary what
                the grid varies.
        """
        self._check()
        found = []
        for model in self.models:
            usual = getattr(benchmark, "BATCH_SIZES", {}).get(model, BATCH_SIZE)
            for batch_size in self.batch_size or (usual,):
                for case in cases(benchmark, model, self.methods, batch_size):
                    found += list(self._varied(benchmark, case))
        return list(dict.fromkeys(found))

    def _check(self) -> None:
        for name, numbers in (("batch size", self.batch_size), ("threads", self.threads)):
            if numbers and min(numbers) < 1:
                raise ValueError(f"expected {name} of 1 or more, got {min(numbers)}")
        if self.chunk and min(self.chunk) < 0:
            raise ValueError(f"expected chunk of 0, for all, or more, got {min(self.chunk)}")
        for kind, names in (("precision", self.precision), ("data", self.data)):
            for name in names or ():
                catalogue.find(kind, name)
        others = ("inference", *peers.names())
        for method in self.methods or ():
            if method in others or method.endswith("-*"):
                continue
            try:
                catalogue.find("method", method)
            except ValueError as error:
                raise ValueError(f"{error}, {', '.join(others)}") from None
        for device in self.device or ():
            try:
                torch.device(device)
            except RuntimeError:
                raise ValueError(
                    f"expected a device such as cpu or cuda, got '{device}'; name one of torch's"
                ) from None

    def _varied(self, benchmark: ModuleType, case: Any) -> Iterator[Any]:
        known = {field.name for field in dataclasses.fields(case)}
        axes = {
            name: getattr(self, name)
            for name in ("precision", "threads", "device", "data", "chunk")
        }
        chosen = {name: values for name, values in axes.items() if values is not None}
        for values in itertools.product(*chosen.values()):
            wanted = dict(zip(chosen, values, strict=True))
            if unknown := sorted(wanted.keys() - known):
                raise ValueError(
                    f"expected no {', '.join(unknown)} for {benchmark.__name__}, whose cases have "
                    f"{', '.join(sorted(known))}, got {', '.join(unknown)}; leave it out"
                )
            yield dataclasses.replace(case, **wanted) if wanted else case


def cases(
    benchmark: ModuleType, model: str, methods: Iterable[str] | None, batch_size: int
) -> list[Any]:
    """A benchmark's cases on a model: of each method, by default of its ``METHODS``."""
    make = getattr(benchmark, "cases", lambda *of: [Workload(*of)])
    chosen = expand(model, methods or benchmark.METHODS)
    return [case for method in chosen for case in make(model, method, batch_size)]


def expand(model: str, methods: Iterable[str]) -> Iterator[str]:
    """Methods, with ``elastic-*`` as every split point of the model."""
    for method in methods:
        if not method.endswith("-*"):
            yield method
            continue
        module = catalogue.find("model", model)
        with torch.device("meta"):
            depth = len(layers(module.build(model, CLASSES[module.INPUT], 3)))
        yield from catalogue.expand([method], depth)


def predicted_seconds(benchmark: ModuleType, case: Any) -> float:
    """About how long a cell takes: as the benchmark says, else a dozen steps."""
    if hasattr(benchmark, "seconds"):
        return float(benchmark.seconds(case))
    more, steps = getattr(benchmark, "COST", (0.0, 12))
    step = 4 * flops(case) / FLOPS_PER_SECOND if isinstance(case, Workload) else 0.0
    return float(START_SECONDS + more + steps * step)


def flops(case: Workload) -> int:
    """Floating-point operations of one forward pass, counted without computing."""
    module = catalogue.find("model", case.model)
    classes = CLASSES[module.INPUT]
    with torch.device("meta"):
        model = module.build(case.model, classes, case.channels)
        x = torch.empty(case.batch_size, *case.example)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(x)
    return counter.get_total_flops()


class Kept:
    """A benchmark's rows in a folder, if any. Each one's ``config`` says of which cell it is."""

    def __init__(self, out: Path | None, benchmark: str) -> None:
        self.path, self.benchmark = (out or Path(os.devnull)) / "rows.jsonl", benchmark
        self._rows = rows.read(self.path) if self.path.exists() else []
        here = rows.provenance()
        self._stamp = {
            "benchmark": benchmark,
            "source": source_digest(),
            "machine": f"{here['processor']}, torch {here['versions']['torch']}",
        }

    def of(self, case: Any) -> list[Row]:
        """A finished cell's rows: of this source, on this machine; else none."""
        wanted = {**self._stamp, "cell": case.name}
        return [r for r in self._rows if wanted.items() <= r.config.items()]

    def seconds(self, case: Any) -> float | None:
        """How long the cell took when it was last measured, whatever the source."""
        own = [r for r in self._rows if self._cell(case).items() <= r.config.items()]
        return next((row.value for row in own if row.metric == "cell_seconds"), None)

    def _cell(self, case: Any) -> dict[str, str]:
        return {"benchmark": self.benchmark, "cell": case.name}

    def put(self, case: Any, measured: Iterable[Row]) -> None:
        """Keep a cell's rows in place of earlier ones."""
        stamp = {**self._stamp, "cell": case.name}
        own = self._cell(case).items()
        self._rows = [r for r in self._rows if not own <= r.config.items()]
        self._rows += [dataclasses.replace(r, config={**r.config, **stamp}) for r in measured]
        rows.write(self.path, self._rows)


def source_digest() -> str:
    """Of the files that a measurement depends on: ``ezo``, compiled part too, and ``bench``."""
    root = Path(__file__).resolve().parent.parent
    sha = hashlib.sha256()
    for folder in ("ezo", "bench"):
        for path in sorted((root / folder).rglob("*")):
            if re.fullmatch(r"\.(py|cpp|hpp|json)", path.suffix):
                sha.update(str(path.relative_to(root)).encode())
                sha.update(path.read_bytes())
    return sha.hexdigest()[:12]
