"""Curves of a metric over what was spent: mean over seeds and its 95 % interval."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, LINES, MARKERS, order, panels
from reproduce.frame import groups, trained
from reproduce.judge import interval

PASSES = (
    "A step with ZO layers is two forward passes, a step of full-bp or tail-only-k one. From the "
    "end of the first epoch on. "
)
CAPTION = "Mean over seeds; the band is its 95 % Student interval (none for a single seed)."


def curves(
    table: pd.DataFrame,
    metric: str,
    label: str,
    over: str,
    over_label: str,
    which: str = "training",
) -> Figure | None:
    """One panel for each model, data set and precision.

    Args:
        table: `reproduce.frame.frame`.
        metric: on the y axis. label: its name and unit.
        over: ``epoch``, or a metric that the same runs have at the same steps.
        over_label: its name and unit.
        which: experiment.
    """
    mine = trained(table, metric, which)
    if mine.empty:
        return None
    if over == "epoch":
        mine = mine.assign(over=mine.epoch)
    else:
        spent = trained(table, over, which)[["case", "step", "value"]]
        spent = spent.rename(columns={"value": "over"})
        mine = mine.merge(spent, on=["case", "step"])
        if mine.empty:
            return None
    parts = groups(mine)
    figure, axes = panels(len(parts))
    for ax, (title, group) in zip(axes, parts, strict=True):
        for method in order(group.method):
            steps = group[group.method == method].groupby("step")
            across = steps.over.mean()
            found = [interval(list(values)) for _, values in steps.value]
            colour = COLOURS.get(method)
            ax.plot(
                across,
                [mean for mean, _, _ in found],
                label=method,
                marker=MARKERS.get(method),
                markersize=4,
                markevery=max(1, len(found) // 8),
                color=colour,
                linestyle=LINES.get(method, "-"),
            )
            if steps.value.count().min() > 1:
                low, high = [x[1] for x in found], [x[2] for x in found]
                ax.fill_between(across, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.set(title=title, xlabel=over_label, ylabel=label)
        if metric == "test_accuracy":
            ax.set_ylim(max(0.0, ax.get_ylim()[0]), min(100.0, ax.get_ylim()[1]))
        ax.legend(fontsize=7, loc="best")
    return figure
