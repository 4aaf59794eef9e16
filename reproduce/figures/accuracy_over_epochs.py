"""Test accuracy over epochs: mean over seeds, and the range between the lowest and the highest."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, MARKERS, order, panels

TITLE = "Test accuracy over epochs"
CAPTION = "Mean over seeds; the band reaches from the lowest seed to the highest."


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model and data set."""
    frame = frame[frame.metric == "test_accuracy"]
    if frame.empty:
        return None
    groups = list(frame.groupby(["model", "data"]))
    figure, axes = panels(len(groups))
    for ax, ((model, data), group) in zip(axes, groups, strict=True):
        for method in order(group.method):
            mine = group[group.method == method]
            steps_per_epoch = mine.step.max() / mine["config.epochs"].max()
            by_step = mine.groupby("step").value
            epochs = sorted(mine.step.unique() / steps_per_epoch)
            colour = COLOURS.get(method)
            ax.plot(
                epochs,
                by_step.mean(),
                label=method,
                color=colour,
                marker=MARKERS.get(method),
                markersize=4,
                markevery=max(1, len(epochs) // 8),
            )
            ax.fill_between(
                epochs, by_step.min(), by_step.max(), color=colour, alpha=0.2, linewidth=0
            )
        ax.set(title=f"{model}, {data}", xlabel="epoch", ylabel="test accuracy (%)")
        ax.legend(fontsize=7, loc="lower right")
    return figure
