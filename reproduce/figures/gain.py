"""ElasticZO's gain over full ZO, and what of it the frozen control has too."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce import rules
from reproduce.figures._style import (
    BAND,
    below,
    forest,
    mark,
    panels,
    share_x,
    title,
    titles,
    whiskers,
)
from reproduce.frame import by_seed, ends_of
from reproduce.words import control_of

OPENING = 1
TITLE = "Gain over full ZO, and its parts"
CAPTION = (
    "Final test accuracy minus full ZO's with the same seed (squares). The frozen control, which "
    "trains the same last layers and leaves the others at their initial values, has one part of it "
    "(triangles to the left); the ZO steps add the other (triangles to the right). Mean over "
    "seeds with its 95 % Student interval; the grey band is what the paper prints. Left out: data "
    "on which full ZO ends near guessing."
)
PRINTED = (5.2, 9.5)  # points
PARTS = (
    ("whole gain", "s", "#000000", 0.22),
    ("the frozen control's part", "<", "#7F7F7F", 0.0),
    ("the ZO steps' part", ">", "#D55E00", -0.22),
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model and data set."""
    lines: dict[tuple[str, str], list[tuple[str, list[list[float]]]]] = {}
    for (model, data, precision), runs in ends_of(frame).items():
        if rules.chance_of(data) + rules.NEAR_CHANCE > by_seed(runs, "full-zo").mean():
            continue
        for method in ("elastic-1", "elastic-2"):
            whole = by_seed(runs, method) - by_seed(runs, "full-zo")
            frozen = by_seed(runs, control_of(method)) - by_seed(runs, "full-zo")
            parts = [list(x.dropna()) for x in (whole, frozen, whole - frozen)]
            if parts[0]:
                lines.setdefault((data, model), []).append((f"{title(precision)}, {method}", parts))
    if not lines:
        return None
    most = max(map(len, lines.values()))
    figure, axes = panels(len(lines), height=0.9 + 0.36 * most)
    place = titles(data for data, _ in lines).index
    for ax, (data, model) in zip(axes, sorted(lines, key=lambda x: place(x[0])), strict=True):
        ordered = lines[data, model]
        for n, (_, parts) in enumerate(ordered):
            for (label, marker, colour, lift), values in zip(PARTS, parts, strict=True):
                if values:
                    mean, reach = whiskers(values)
                    mark(ax, mean, lift - n, reach, label=label, marker=marker, color=colour)
        ax.axvspan(*PRINTED, **BAND, label="printed")
        ax.axvline(0, color="0.3", linewidth=0.8)
        forest(ax, [name for name, _ in ordered], "difference of test accuracy (points)")
        ax.set_title(title(model, data))
    share_x(axes)
    below(figure, 2)
    return figure
