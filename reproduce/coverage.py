"""How much of a preset the rows cover: runs that finished, runs without rows, what was measured."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ezo.rows import Row
from ezo.train import Run
from reproduce.experiments import Experiment
from reproduce.presets import Cells
from reproduce.select import VARIED, Key, experiment, key


class Shown(NamedTuple):
    """What of a benchmark the report shows.

    Attributes:
        what: it measures.
        metric: that each of its cases has.
        precisions: that each of its cases measures, or none where a case is of one.
    """

    what: str
    metric: str
    precisions: tuple[str, ...] = ()


BENCHMARKS = {
    "memory": Shown("peak memory", "peak_tensor_bytes"),
    "float_operations": Shown("floating-point operations in int8", "float_operations", ("int8",)),
    "precisions": Shown("step time of fp32 beside int8", "turn_seconds", ("fp32", "int8")),
    "compare": Shown("step time beside other libraries", "step_over_two_forwards"),
    "time": Shown("step time by phase", "step_seconds"),
}


class Part(NamedTuple):
    """How much of an experiment has rows.

    Attributes:
        name: of the experiment.
        wanted: how many runs the preset has.
        finished: how many of them finished.
        ended: how many diverged, failed or stopped.
        missing: what has no rows, a text for each group of runs.
    """

    name: str
    wanted: int
    finished: int
    ended: int
    missing: list[str]

    def __str__(self) -> str:
        runs = f"{self.name} ({self.finished} of {self.wanted} runs finished"
        return runs + (f", {self.ended} diverged, failed or stopped)" if self.ended else ")")


class Measured(NamedTuple):
    """How much of a measurement has rows.

    Attributes:
        name: what is measured, on which model.
        cases: how many have rows.
        missing: methods of the preset without rows, a text for each precision.
    """

    name: str
    cases: int
    missing: list[str]

    def __str__(self) -> str:
        return f"{self.name} ({self.cases} case{'s' if self.cases != 1 else ''})"


def parts(rows: list[Row], experiments: Mapping[str, Experiment]) -> list[Part]:
    """Every experiment of a preset, in its order."""
    last = {_identity(experiment(r), r.case, key(r)): r.metric for r in _of_runs(rows)}
    found = []
    for name, (kind, make) in experiments.items():
        runs = {_identity(kind, run.case, _key(run)): run for run in make()}
        ends = [last[run] for run in runs if run in last]
        missing = runs_text([run for identity, run in runs.items() if identity not in last])
        finished = ends.count("finished")
        found.append(Part(name, len(runs), finished, len(ends) - finished, missing))
    return found


def beyond(rows: list[Row], experiments: Mapping[str, Experiment]) -> list[str]:
    """Cases of training runs that have rows and are none of the preset's."""
    wanted = {
        _identity(kind, run.case, _key(run))
        for kind, make in experiments.values()
        for run in make()
    }
    others = (r for r in _of_runs(rows) if _identity(experiment(r), r.case, key(r)) not in wanted)
    return list(dict.fromkeys(row.case for row in others))


def measured(rows: list[Row], cells: Iterable[Cells]) -> list[Measured]:
    """Every measurement of a preset, in its order."""
    wanted: dict[tuple[str, str, int], dict[str, list[str]]] = {}
    for cell in cells:
        by_precision = wanted.setdefault((cell.benchmark, cell.model, cell.chunk), {})
        own = BENCHMARKS[cell.benchmark].precisions
        for precision in own or (("fp32", "int8") if cell.integers else ("fp32",)):
            by_precision.setdefault(precision, []).extend(cell.methods)
    found = []
    for (benchmark, model, chunk), by_precision in wanted.items():
        what, metric, _ = BENCHMARKS[benchmark]
        what += f", {chunk} examples at a time" if chunk else ""
        one = (metric, model, chunk)
        mine = [r for r in rows if (r.metric, r.model, r.config.get("chunk", 0)) == one]
        mine = [r for r in mine if r.value is not None]
        there = {(row.precision, row.method) for row in mine}
        lacking = {
            precision: [m for m in dict.fromkeys(methods) if (precision, m) not in there]
            for precision, methods in by_precision.items()
        }
        missing = [f"{p}: {', '.join(methods)}" for p, methods in lacking.items() if methods]
        found.append(Measured(f"{what}, {model}", len({row.case for row in mine}), missing))
    return found


def runs_text(runs: Iterable[Run]) -> list[str]:
    """Runs by name, each named once: groups that lack the same share a text.

    >>> runs_text(Run("lenet5", "mnist", "full-zo", seed=seed) for seed in (0, 1))
    ['lenet5 on mnist (fp32): full-zo with seeds 0, 1']
    """
    groups: dict[tuple[str, str], dict[str, list[Run]]] = {}
    for run in runs:
        by_precision = groups.setdefault((run.model, run.data), {})
        by_precision.setdefault(run.precision, []).append(run)
    where: dict[str, list[str]] = {}
    for (model, data), by_precision in groups.items():
        precisions: dict[str, list[str]] = {}
        for precision, mine in by_precision.items():
            precisions.setdefault(_methods(mine), []).append(precision)
        for text, names in precisions.items():
            where.setdefault(text, []).append(f"{model} on {data} ({', '.join(names)})")
    return [f"{', '.join(names)}: {text}" for text, names in where.items()]


def _methods(runs: list[Run]) -> str:
    """Methods that have the same seeds together; how many runs where a seed has several."""
    by_method: dict[str, list[int]] = {}
    for run in runs:
        by_method.setdefault(run.method, []).append(run.seed)
    methods: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for method, seeds in by_method.items():
        each = tuple(sorted(set(seeds)))
        methods.setdefault((each, len(seeds) - len(each)), []).append(method)
    return "; ".join(
        f"{', '.join(names)} with seed{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
        + (f" ({len(seeds) + more} runs)" if more else "")
        for (seeds, more), names in methods.items()
    )


def _identity(kind: str, case: str, run: Key) -> tuple[str, ...]:
    """What a run is judged as; some experiments' runs differ in their settings alone."""
    return (kind, case) if kind in ("sensitivity", *VARIED) else (kind, *map(str, run))


def _of_runs(rows: list[Row]) -> Iterable[Row]:
    return (row for row in rows if row.seed is not None and experiment(row) != "search")


def _key(run: Run) -> Key:
    return Key(run.model, run.data, run.precision, run.method, run.seed)
