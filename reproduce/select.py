"""From rows to samples: the last value of each run, and what two methods' runs differ by."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ezo.rows import Row

# What runs are trained for; the runs of each are judged together. Beside these: ``sensitivity``,
# one setting at a time, and ``search``, trials on held-out examples.
KINDS = ("training", "queries", "noises", "sign", "long", "fine-tuning", "fine-tuning-queries")

# The setting by which runs of an experiment differ, beside their key.
VARIED = {"noises": "noise"}


class Key(NamedTuple):
    """What identifies a training run within one experiment."""

    model: str
    data: str
    precision: str
    method: str
    seed: int


class Group(NamedTuple):
    """Runs that differ in method and seed only."""

    model: str
    data: str
    precision: str

    def __str__(self) -> str:
        return f"{self.model} on {self.data}, {self.precision}"


def experiment(row: Row) -> str:
    """One of `KINDS`, ``sensitivity`` or ``search``."""
    if row.config.get("held_out"):
        return "search"
    default = "fine-tuning" if row.config.get("start") else "training"
    return row.experiment or str(row.config.get("experiment", default))


def key(row: Row) -> Key:
    """The run that a row of a training run belongs to."""
    assert row.seed is not None
    return Key(row.model, row.data, row.precision, row.method, row.seed)


def variant(row: Row) -> str:
    """The row's experiment, with the value of the setting by which its runs differ, if any."""
    which = experiment(row)
    setting = VARIED.get(which)
    return f"{which}, {row.config.get(setting)}" if setting else which


def variants(rows: list[Row]) -> list[tuple[str, str, list[Row]]]:
    """(experiment, name, rows) of each of `KINDS`; with `VARIED` settings, of each value."""
    found = []
    for which in KINDS:
        own = [row for row in rows if row.seed is not None and experiment(row) == which]
        for name in sorted({variant(row) for row in own}):
            found.append((which, name, [row for row in own if variant(row) == name]))
    return found


def history(rows: list[Row], metric: str, which: str = "training") -> dict[Key, list[Row]]:
    """Every finished run's rows of a metric, in the order of steps.

    A run that diverged, failed or stopped has none.
    """
    done = {row.case for row in rows if row.metric == "finished"}
    found: dict[Key, list[Row]] = {}
    for row in rows:
        if row.metric == metric and row.case in done and experiment(row) == which:
            found.setdefault(key(row), []).append(row)
    return found


def final(rows: list[Row], metric: str, which: str = "training") -> dict[Key, Row]:
    """Every finished run's last row of a metric."""
    return {run: found[-1] for run, found in history(rows, metric, which).items()}


def groups(runs: dict[Key, Row] | dict[Key, list[Row]]) -> list[Group]:
    """The groups that these runs make, sorted."""
    return sorted({Group(*run[:3]) for run in runs})


def seeds_of(runs: dict[Key, Row], group: Group, *methods: str) -> list[int]:
    """Seeds for which every one of the methods has a run, sorted."""
    each = [{k.seed for k in runs if k[:3] == group and k.method == m} for m in methods]
    return sorted(set.intersection(*each))


class Difference(NamedTuple):
    """One method against another: what was compared, a sample a seed, and the last rows of all."""

    group: Group
    comparison: str
    samples: list[float]
    ends: list[Row]

    @property
    def cases(self) -> tuple[str, ...]:
        return tuple(row.case for row in self.ends)


def accuracy_differences(
    rows: list[Row], pairs: Sequence[tuple[str, str]], which: str = "training"
) -> Iterator[Difference]:
    """Final accuracy of one method minus another's, in points, for every pair with rows."""
    ends = final(rows, "test_accuracy", which)
    for group in groups(ends):
        for ours, theirs in pairs:
            seeds = seeds_of(ends, group, ours, theirs)
            if seeds:
                both = [(ends[Key(*group, ours, s)], ends[Key(*group, theirs, s)]) for s in seeds]
                taken = [row for pair in both for row in pair]
                yield Difference(
                    group,
                    f"{ours} minus {theirs}, {group}{at_length(taken)}",
                    [value(a) - value(b) for a, b in both],
                    taken,
                )


def at_length(ends: Sequence[Row]) -> str:
    """What runs of a kind of their own were given: ``, 50 epochs, 8 queries a step``.

    Integers are in the paper's form where they move by the sign of the loss difference and have no
    fraction.
    """
    if all(experiment(row) in ("training", "fine-tuning") for row in ends):
        return ""  # the usual ones
    if any(experiment(row) == "sign" for row in ends):
        return ", the paper's form"
    epochs = max(row.config["epochs"] for row in ends)
    queries = max(row.config.get("queries", 1) for row in ends)
    return f", {epochs} epochs, {queries} queries a step"


def value(row: Row) -> float:
    """A row's number; NaN where measuring failed."""
    return float("nan") if row.value is None else float(row.value)


class Cell(NamedTuple):
    """What identifies a measurement of memory or time, but its method and precision."""

    model: str
    device: str
    config: str


def cells(rows: list[Row], metric: str) -> dict[tuple[Cell, str, str], Row]:
    """Rows of a benchmark by (cell, precision, method); the last where there are several."""
    return {
        (Cell(row.model, row.device, settings(row)), row.precision, row.method): row
        for row in rows
        if row.metric == metric and row.value is not None
    }


SHAPE = ("batch_size", "points")  # of a cell's input
# In a row's config: what says where from, not what. The experiment stood there once.
BOOKKEEPING = ("benchmark", "cell", "experiment", "machine", "round", "source")


def settings(row: Row) -> str:
    """A cell's settings as text, for example ``batch 32, 1024 points``."""
    shape = {"batch_size": "batch {}", "points": "{} points"}
    return ", ".join(
        shape.get(name, f"{name} {{}}").format(row.config[name])
        for name in sorted(row.config)
        if name not in BOOKKEEPING
    )


def peak_excess(
    rows: list[Row], pairs: Sequence[tuple[str, str]]
) -> Iterator[tuple[str, float, tuple[str, ...]]]:
    """Peak tensor bytes of one method over another's, minus one, in %.

    Yields:
        (comparison, %, cases) for every model, setting, precision and pair with rows.
    """
    peaks = cells(rows, "peak_tensor_bytes")
    for cell, precision in sorted({at[:2] for at in peaks}):
        for ours, theirs in pairs:
            a = peaks.get((cell, precision, ours))
            b = peaks.get((cell, precision, theirs))
            if a is not None and b is not None and value(b):
                yield (
                    f"{ours} over {theirs}, {cell.model}, {precision}, {cell.config}",
                    100 * (value(a) / value(b) - 1),
                    (a.case, b.case),
                )
