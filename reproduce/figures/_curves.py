"""Curves of a metric over what was spent: mean over seeds and its 95 % interval."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.figures._style import (
    COLOURS,
    LINES,
    MARKERS,
    below,
    log_axis,
    order,
    panels,
    title,
    titles,
)
from reproduce.frame import GROUP, trained
from reproduce.judge import interval
from reproduce.words import PRECISIONS, data_order, ours

CAPTION = "Mean over seeds; the band is its 95 % Student interval (none for a single seed)."
ROOM = 15.0  # points that the axis shows below the least accurate method's end
PASSES = (
    "Every pass of a batch counts as one, forward or backward, and a backward pass of the last "
    "layers alone as a whole one. From the end of the first epoch on. "
)


def passes(table: pd.DataFrame) -> pd.DataFrame:
    """``case``, ``step`` and ``over``: thousands of passes, forward and backward.

    A step with BP layers makes a backward pass with each forward one, or one in all where its BP
    gradient is that of one pass (``bp_gradient`` other than ``mean``, and every step in integers).
    """
    spent = table[table.metric == "forward_passes"]
    mean = spent.get("config.bp_gradient", pd.Series("mean", spent.index)).fillna("mean") == "mean"
    queries = spent.get("config.queries", pd.Series(1, spent.index)).fillna(1)
    zo = spent.method.str.contains("zo")
    elastic = spent.method.str.startswith("elastic")
    once = elastic & (~mean | (spent.precision != "fp32"))
    backward = spent.value.where(~once, spent.value / (2 * queries)).mask(zo, 0.0)
    return spent.assign(over=(spent.value + backward) / 1000)[["case", "step", "over"]]


def curves(
    table: pd.DataFrame,
    metric: str,
    label: str,
    over: str,
    which: str = "training",
    columns: int = 1,
    methods: tuple[str, ...] = (),
    bands: tuple[str, ...] = (),
) -> Figure | None:
    """One panel for each model, data set and precision; int8* has none, being near int8.

    Args:
        table: `reproduce.frame.frame`.
        metric: on the y axis. label: its name and unit.
        over: on the x axis: ``epoch`` or ``passes``.
        which: experiment.
        columns: of panels.
        methods: by default all.
        bands: those whose interval is drawn; by default all.
    """
    mine = trained(table, metric, which)
    mine = mine[mine.precision != PRECISIONS[-1]]
    if methods:
        mine = mine[mine.method.isin(methods)]
    if mine.empty:
        return None
    if over == "passes":
        mine = mine.merge(passes(table), on=["case", "step"])
    else:
        mine = mine.assign(over=mine.epoch)
    groups = dict(list(mine.groupby(GROUP)))
    if not groups:
        return None
    places = titles(data for _, data, _ in groups), data_order({p for *_, p in groups})
    keys = sorted(groups, key=lambda k: (places[0].index(k[1]), places[1].index(k[2]), k[0]))
    figure, axes = panels(len(keys), 2.0, columns)
    for ax, names in zip(axes, keys, strict=True):
        for method in order(groups[names].method):
            mine_of = groups[names][groups[names].method == method]
            _curve(ax, method, mine_of, not bands or method in bands)
        ax.set(title=title(*names), ylabel=label)
        if over == "passes":
            log_axis(ax, groups[names].over)
        ax.set_xlabel("passes of a batch (thousands)" if over == "passes" else "epochs")
        if metric == "test_accuracy":
            ends = groups[names].groupby(["method", "case"]).value.last().groupby("method").mean()
            least = max(0.0, ends.min() - ROOM) if over == "passes" else 0.0
            ax.set_ylim(max(least, ax.get_ylim()[0]), min(100.5, ax.get_ylim()[1]))
    below(figure)
    return figure


def _curve(ax: Axes, method: str, runs: pd.DataFrame, band: bool) -> None:
    steps = runs.groupby("step")
    across = steps.over.mean()
    found = [interval(list(values)) for _, values in steps.value]
    colour = COLOURS.get(method)
    ax.plot(
        across,
        [mean for mean, _, _ in found],
        label=ours(method),
        marker=MARKERS.get(method, "X"),
        markevery=max(1, len(found) // 6),
        color=colour,
        linestyle=LINES.get(method, "-"),
    )
    if band and steps.value.count().min() > 1:
        low, high = zip(*((max(low, 0.0), high) for _, low, high in found), strict=True)
        ax.fill_between(across, low, high, color=colour, alpha=0.15, linewidth=0)
