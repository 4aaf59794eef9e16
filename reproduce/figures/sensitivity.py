"""Final accuracy when one hyperparameter alone is changed."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, LINES, MARKERS, below, order, panels, title, whiskers
from reproduce.frame import by_seed, ends_of, sensitivity

TITLE = "Sensitivity to hyperparameters"
CAPTION = (
    "Final test accuracy of short runs, all other hyperparameters at the chosen values; rings mark "
    "the chosen one. One seed: the band is twice the deviation over seeds of whole runs of the "
    "same method, and what lies within it says nothing."
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
    spreads = ends_of(frame)
    figure, axes = panels(len(parts), 2.1, columns=2)
    for ax, (group, name, lines) in zip(axes, parts, strict=True):
        runs = spreads.get(tuple(group.split(", ")))
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
                marker=MARKERS.get(method, "X"),
                linestyle=LINES.get(method, "-") if numeric else "",
            )
            for x, (mean, reach) in zip(across, found, strict=True):
                if reach is not None:
                    ax.errorbar(x, mean, yerr=reach, color=COLOURS.get(method), capsize=3)
            for x in mine[mine.centre][column].unique():
                mean = means[across.index(x)]
                ax.plot([x], [mean], "o", markersize=8, fillstyle="none", color="0.2")
                if runs is not None and (seeds := by_seed(runs, method)).count() > 1:
                    spread = float(2 * seeds.std())
                    ax.axhspan(mean - spread, mean + spread, color=COLOURS.get(method), alpha=0.12)
        if numeric and (lines.number > 0).all():
            ax.set_xscale("log")
        ax.set_title(title(*group.split(", ")))
        ax.set(xlabel=UNITS.get(name, name), ylabel="final test accuracy (%)")
    below(figure)
    return figure
