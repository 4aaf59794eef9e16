"""Stacked bars: what each part of a sum contributes, method by method."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import below, order, panels, patches, title


def stacks(
    frame: pd.DataFrame, metrics: Mapping[str, str], scale: float, label: str
) -> Figure | None:
    """One panel for each model, precision, setting and number of threads.

    Args:
        frame: `reproduce.frame.frame`.
        metrics: the parts: metric to name.
        scale: what one unit of the axis is worth.
        label: of the x axis, with its unit.
    """
    mine = frame[frame.metric.isin(list(metrics)) & frame.value.notna()]
    if mine.empty:
        return None
    parts = list(mine.groupby(["model", "precision", "settings", "threads"]))
    figure, axes = panels(len(parts), 2.8, columns=2)
    for ax, ((model, precision, settings, threads), group) in zip(axes, parts, strict=True):
        table = group.pivot_table(
            index="method", columns="metric", values="value", aggfunc="median"
        )
        table = table.reindex(index=order(table.index)[::-1]).fillna(0.0) / scale
        left = pd.Series(0.0, index=table.index)
        shown = [metric for metric in metrics if metric in table]
        for metric, style in zip(shown, patches(len(shown)), strict=True):
            ax.barh(table.index, table[metric], left=left, label=metrics[metric], **style)
            left = left + table[metric]
        where = f", {threads} threads" if threads > 1 else ""
        ax.set(title=f"{title(model, precision)}, {settings}{where}", xlabel=label)
    below(figure)
    return figure
