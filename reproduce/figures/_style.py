"""One look for all figures: colours that the colour-blind tell apart, and marks that grey keeps."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from PIL import Image

from reproduce.judge import interval
from reproduce.words import METHODS, data_order, method_order, said

PNG_DPI, PNG_COLOURS = 220, 64
COLUMN_INCHES = 3.33  # of a conference's two columns
FEW_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#8F4E8B", "#000000", "#7F7F7F", "#8C510A")
BAND: dict[str, Any] = {
    "color": "0.75",
    "alpha": 0.6,
    "linewidth": 0,
    "zorder": 0,
}  # a printed range
ORDER = METHODS
_COLOURS = {
    "inference": "#555555",
    "full-zo": "#000000",
    "tail-only-1": "#7F9DB0",
    "tail-only-2": "#B98E6B",
    "elastic-1": "#0072B2",
    "elastic-2": "#D55E00",
    "elastic-3": "#8F4E8B",
    "elastic-4": "#8C510A",
    "full-bp": "#009E73",
    "full-bp-checkpoint": "#00604A",
    "full-zo-node": "#CC79A7",
    "full-zo-feedback": "#56B4E9",
    "elastic-node-1": "#3B6FB6",
    "elastic-node-2": "#E69F00",
    "elastic-feedback-1": "#2B8CBE",
    "elastic-feedback-2": "#A6761D",
}
_MARKS = {
    "inference": "P",
    "full-zo": "o",
    "full-zo-node": "*",
    "full-zo-feedback": "X",
    "tail-only": "v",
    "elastic": "s",
    "elastic-node": "p",
    "elastic-feedback": "h",
    "elastic-lean": "^",
    "full-bp": "D",
}


def _colour(name: str) -> str:
    """Its own, or that of the split whose lean form it is."""
    return _COLOURS.get(name, _COLOURS.get(name.replace("lean-", ""), "#7F7F7F"))


COLOURS = {name: _colour(name) for name in ORDER}
MARKERS = {
    name: next((m for k, m in reversed(_MARKS.items()) if name.startswith(k)), "X")
    for name in ORDER
}


def _line(name: str) -> Any:
    styles = {"tail": "--", "lean": ":", "full-bp": "-."}
    return next((style for part, style in styles.items() if part in name), "-")


LINES = {name: _line(name) for name in ORDER}
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++")
order = method_order


def panels(
    n: int, height: float = 2.3, columns: int = 1, heights: Sequence[float] = ()
) -> tuple[Figure, list[Axes]]:
    """n axes, each as wide as a column and of so many inches' height, in one column or two.

    Args:
        heights: of each line of axes, in place of one height for all.
    """
    sns.set_theme(style="ticks", context="paper", font_scale=0.8)
    matplotlib.rcParams.update(
        {
            "svg.hashsalt": "ezo",
            "svg.fonttype": "path",
            "pdf.fonttype": 42,
            "figure.dpi": 200,
            "axes.grid": True,
            "grid.color": "0.9",
            "axes.titlesize": 8,
            "legend.fontsize": 6.5,
            "lines.linewidth": 1.1,
            "lines.markersize": 4,
        }
    )
    columns = min(n, columns)
    lines = -(-n // columns)
    each = list(heights) or [height] * lines
    size = COLUMN_INCHES * columns, sum(each) + 0.1
    figure = Figure(figsize=size, layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False, height_ratios=each).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def whiskers(values: Sequence[float]) -> tuple[float, list[list[float]] | None]:
    """Mean, and how far its 95 % interval reaches down and up; None for a single value."""
    mean, low, high = interval(list(values))
    return mean, None if len(values) == 1 else [[mean - low], [high - mean]]


def patches(n: int) -> list[dict[str, Any]]:
    """Fill and hatching of n parts of a stack, told apart without colour."""
    return [
        {"color": FEW_COLOURS[i], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        for i in range(n)
    ]


def forest(ax: Axes, names: Sequence[str], label: str) -> None:
    """Name the lines 0, -1, -2, ... of a forest plot, from above."""
    ax.set_yticks([-n for n in range(len(names))], names)
    ax.set(xlabel=label, ylim=(-len(names) + 0.4, 0.6))


def mark(ax: Axes, x: float, y: float, reach: Any, **style: Any) -> None:
    """A point with its interval, if it has one."""
    ax.errorbar(x, y, xerr=reach, capsize=2, linewidth=0.9, linestyle="", **style)


def below(figure: Figure, columns: int = 3) -> None:
    """One legend for all axes, below them, each name once."""
    found: dict[str, Any] = {}
    for ax in figure.axes:
        found |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    figure.legend(
        list(found.values()),
        list(found),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        columnspacing=1.0,
        handletextpad=0.4,
    )


def png(figure: Figure) -> bytes:
    """The figure in so few colours that a report of many stays small."""
    drawn, packed = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", dpi=PNG_DPI)
    with Image.open(drawn) as image:
        few = image.convert("RGB").quantize(PNG_COLOURS, dither=Image.Dither.NONE)
        few.save(packed, format="png", optimize=True)
    return packed.getvalue()


def log_axis(ax: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis over these values, with ticks that are plain numbers."""
    low, high = min(values), max(values)
    ticks = [m * 10.0**e for e in range(-3, 10) for m in (1, 1.5, 2, 3, 5)]
    few = [x for x in ticks if low / 1.3 < x < high * 1.3]
    ax.set_xscale("log")
    ax.set_xlim(low / 1.3, high * 1.3)
    ax.set_xticks(few[:: 1 + len(few) // 8])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())


def share_x(axes: Sequence[Axes]) -> None:
    """The same x axis for all."""
    low, high = zip(*(ax.get_xlim() for ax in axes), strict=True)
    for ax in axes:
        ax.set_xlim(min(low), max(high))


def titles(names: Iterable[str]) -> list[str]:
    """Data sets in the order of the paper."""
    return data_order(dict.fromkeys(names))


def title(*names: str) -> str:
    """Names in words, joined."""
    return ", ".join(map(said, names))
