"""How much of what full BP recovers in fine-tuning the other methods recover."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import (
    COLOURS,
    MARKERS,
    below,
    forest,
    mark,
    order,
    panels,
    share_x,
    title,
    whiskers,
)
from reproduce.frame import by_seed, ends_of, first, trained
from reproduce.words import data_order

OPENING = 6
TITLE = "Fine-tuning: what is recovered of what full BP recovers"
CAPTION = (
    "From full BP's weights on the unrotated data: test accuracy after fine-tuning minus before, "
    "over the same of full BP with the same seed. Mean over seeds with its 95 % Student interval. "
    "The line is our target of 80 %. Hollow: with several perturbations (queries) a step."
)
TARGET = 80.0  # %
KINDS = {"fine-tuning": "full", "fine-tuning-queries": "none"}


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each precision."""
    before = first(trained(frame, "test_accuracy", "fine-tuning"))
    of_bp = {key: by_seed(runs, "full-bp") for key, runs in ends_of(frame, "fine-tuning").items()}
    found: dict[str, list[tuple[str, str, str, list[float]]]] = {}
    for kind in KINDS:
        for key, runs in ends_of(frame, kind).items():
            model, data, precision = key
            begun = before[(before.data == data) & (before.precision == precision)]
            begun = by_seed(begun[begun.model == model], "full-bp")
            for method in order(set(runs.method) - {"full-bp"}):
                share = (by_seed(runs, method) - begun) / (of_bp.get(key, begun) - begun)
                if values := list(100 * share.dropna()):
                    found.setdefault(precision, []).append((data, method, kind, values))
    if not found:
        return None
    names = data_order({data for lines in found.values() for data, *_ in lines})
    figure, axes = panels(len(found), height=0.8 + 0.42 * len(names))
    for ax, precision in zip(axes, data_order(found), strict=True):
        for data, method, kind, values in found[precision]:
            mean, reach = whiskers(values)
            lift = 0.25 - 0.17 * order(m for _, m, *_ in found[precision]).index(method)
            mark(
                ax,
                mean,
                lift - names.index(data) - (0.08 if kind != "fine-tuning" else 0),
                reach,
                label=method + (", several queries" if kind != "fine-tuning" else ""),
                marker=MARKERS.get(method, "X"),
                fillstyle=KINDS[kind],
                color=COLOURS.get(method),
            )
        ax.axvline(TARGET, color="#9c1c00", linewidth=1, linestyle="--", label="target")
        forest(ax, [title(name).replace(" turned ", ", ") for name in names], "recovered (%)")
        ax.set_title(title(precision))
    share_x(axes)
    below(figure, 2)
    return figure
