"""Final accuracy when one hyperparameter alone is changed."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, LINES, MARKERS, order, panels, whiskers
from reproduce.frame import sensitivity

TITLE = "Sensitivity to hyperparameters"
CAPTION = (
    "Final test accuracy of short runs, all other hyperparameters at the chosen values; rings mark "
    "the chosen one. Mean over seeds with its 95 % Student interval (none for a single seed)."
)
UNITS = {
    "lr": "ZO learning rate (1)",
    "eps": "ZO perturbation (weight units)",
    "clip": "bound on |g| (nat)",
    "bp_lr": "BP learning rate (1)",
    "rate": "ZO rate (2^-16 last places)",
    "r_max": "largest perturbation (last places)",
    "p_zero": "weights left alone (share)",
    "mu": "update width (bits)",
    "magnitude": "form of the ZO step (name)",
    "bp_gradient": "where the BP gradient is taken (name)",
}


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each hyperparameter, model, data set and precision."""
    parts = list(sensitivity(frame))
    if not parts:
        return None
    figure, axes = panels(len(parts), height=2.9)
    for ax, (title, name, lines) in zip(axes, parts, strict=True):
        numeric = lines.number.notna().all()
        for method in order(lines.method):
            mine = lines[lines.method == method].sort_values("number" if numeric else "setting")
            column = "number" if numeric else "setting"
            across = list(dict.fromkeys(mine[column]))
            found = [whiskers(list(mine[mine[column] == x].value)) for x in across]
            means = [mean for mean, _ in found]
            ax.plot(
                across,
                means,
                label=method,
                color=COLOURS.get(method),
                marker=MARKERS.get(method),
                linestyle=LINES.get(method, "-") if numeric else "",
            )
            for x, (mean, reach) in zip(across, found, strict=True):
                if reach is not None:
                    ax.errorbar(x, mean, yerr=reach, color=COLOURS.get(method), capsize=3)
            for x in mine[mine.centre][column].unique():
                mean = means[across.index(x)]
                ax.plot([x], [mean], "o", markersize=11, fillstyle="none", color="0.2")
        if numeric and (lines.number > 0).all():
            ax.set_xscale("log")
        ax.set(title=title, xlabel=UNITS.get(name, name), ylabel="final test accuracy (%)")
        ax.legend(fontsize=7, loc="best")
    return figure
