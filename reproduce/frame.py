"""Rows as a pandas data frame, and the parts of it that figures and tables show."""

from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import pandas as pd

from ezo.rows import Row
from reproduce.select import BOOKKEEPING, SHAPE, experiment, settings

GROUP = ["model", "data", "precision"]


def frame(rows: list[Row]) -> pd.DataFrame:
    """One line a row: the columns of `ezo.rows.Row`, ``config`` flat as ``config.name``, and more.

    ``experiment`` is `reproduce.select.experiment`, ``settings`` is `reproduce.select.settings` and
    ``variant`` and ``variant_of_shape`` the same without and with nothing but the input's shape;
    ``finished`` says that the row's run did;
    ``epoch`` counts the passes over the training data done at ``step``.
    """
    finished = {row.case: row.step for row in rows if row.metric == "finished"}

    def line(row: Row) -> dict[str, Any]:
        steps, epochs = finished.get(row.case), row.config.get("epochs")
        return {
            **asdict(row),
            **{f"config.{name}": x for name, x in _without(row.config, BOOKKEEPING).items()},
            "experiment": experiment(row),
            "settings": settings(row),
            "variant": settings(replace(row, config=_without(row.config, SHAPE))),
            "variant_of_shape": settings(replace(row, config=_only(row.config, SHAPE))),
            "finished": row.case in finished,
            "epoch": row.step * epochs / steps if steps and epochs and row.step else 0.0,
        }

    return pd.DataFrame(line(row) for row in rows).astype({"value": float})


def _without(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name not in names}


def _only(config: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if name in names}


def trained(table: pd.DataFrame, metric: str, which: str = "training") -> pd.DataFrame:
    """The rows of a metric of the finished runs of an experiment."""
    return table[(table.metric == metric) & table.finished & (table.experiment == which)]


def last(table: pd.DataFrame) -> pd.DataFrame:
    """Each run's last row."""
    return table[table.step == table.groupby("case").step.transform("max")]


def first(table: pd.DataFrame) -> pd.DataFrame:
    """Each run's first row."""
    return table[table.step == table.groupby("case").step.transform("min")]


def ends_of(table: pd.DataFrame, which: str = "training") -> dict[tuple[str, ...], pd.DataFrame]:
    """Last rows of test accuracy of an experiment by (model, data, precision)."""
    return {
        tuple(map(str, names)): runs
        for names, runs in last(trained(table, "test_accuracy", which)).groupby(GROUP)
    }


def by_seed(ends: pd.DataFrame, method: str) -> pd.Series:
    """A method's values by seed."""
    return ends[ends.method == method].groupby("seed").value.last()


def sensitivity(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """What each hyperparameter alone does to the final accuracy.

    Yields:
        (group, hyperparameter, lines) for each that was varied; the lines have ``method``,
        ``setting`` (the value as text), ``number`` (as a number, or NaN), ``value`` (%),
        ``centre`` (the chosen one) and ``case``.
    """
    ends = last(trained(table, "test_accuracy", "sensitivity"))
    settings = [c for c in ends.columns if c.startswith("config.")]
    names = [c for c in settings if ends[c].map(str).nunique() > 1]
    for group_names, group in ends.groupby(GROUP):
        title = ", ".join(map(str, group_names))
        for name in names:
            parts = []
            for _, mine in group.groupby("method"):
                text = mine[names].map(str)
                centre = text.mode().iloc[0]
                same = text.drop(columns=name).eq(centre.drop(name)).all(axis=1)
                if text[same][name].nunique() > 1:
                    varied = mine[same]
                    parts.append(
                        varied.assign(
                            setting=text[same][name],
                            number=pd.to_numeric(varied[name], errors="coerce"),
                            centre=text[same][name] == centre[name],
                        )
                    )
            if parts:
                yield title, name.removeprefix("config."), pd.concat(parts)
