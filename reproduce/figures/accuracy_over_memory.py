"""Final accuracy against peak memory: what each byte buys."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, MARKERS, order, panels

TITLE = "Accuracy against peak memory"
CAPTION = "Final test accuracy, mean and range over seeds, against the method's peak bytes."


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model and data set that has both."""
    peaks = frame[frame.metric == "peak_tensor_bytes"].set_index(["model", "method"]).value
    accuracy = frame[frame.metric == "test_accuracy"]
    if peaks.empty or accuracy.empty:
        return None
    accuracy = accuracy[accuracy.step == accuracy.groupby("case").step.transform("max")]
    groups = [
        (key, group)
        for key, group in accuracy.groupby(["model", "data"])
        if any((key[0], m) in peaks.index for m in group.method)
    ]
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for ax, ((model, data), group) in zip(axes, groups, strict=True):
        for method in order(group.method):
            if (model, method) not in peaks.index:
                continue
            values = group[group.method == method].value
            mean = values.mean()
            ax.errorbar(
                peaks[model, method] / 1e6,
                mean,
                yerr=[[mean - values.min()], [values.max() - mean]],
                label=method,
                color=COLOURS.get(method),
                marker=MARKERS.get(method),
                capsize=3,
                linestyle="",
            )
        ax.set(
            title=f"{model}, {data}",
            xlabel="peak tensor bytes of a step (MB)",
            ylabel="final test accuracy (%)",
        )
        ax.legend(fontsize=7, loc="best")
    return figure
