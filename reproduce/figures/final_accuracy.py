"""Final test accuracy, method by method."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, MARKERS, order, panels, whiskers
from reproduce.frame import groups, last, trained

TITLE = "Final test accuracy, method by method"
CAPTION = "Mean over seeds with its 95 % Student interval; small points are single seeds."


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision."""
    ends = last(trained(frame, "test_accuracy"))
    if ends.empty:
        return None
    parts = groups(ends)
    figure, axes = panels(len(parts), height=2.6)
    for ax, (title, group) in zip(axes, parts, strict=True):
        for line, method in enumerate(methods := order(group.method)[::-1]):
            values = list(group[group.method == method].value)
            mean, reach = whiskers(values)
            colour = COLOURS.get(method)
            ax.plot(values, [line] * len(values), ".", color="0.4", markersize=3)
            ax.errorbar(mean, line, xerr=reach, color=colour, marker=MARKERS.get(method), capsize=3)
            ax.annotate(
                f"{mean:.2f}",
                (mean, line),
                (0, 5),
                textcoords="offset points",
                fontsize=7,
                ha="center",
            )
        ax.set(title=title, xlabel="final test accuracy (%)", ylabel="method")
        ax.set_yticks(range(len(methods)), methods)
        ax.set_ylim(-0.6, len(methods) - 0.2)
    return figure
