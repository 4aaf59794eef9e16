"""Final accuracy against peak memory over the split points, with the Pareto front."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from reproduce.figures._style import (
    COLOURS,
    MARKERS,
    below,
    log_axis,
    order,
    panels,
    title,
    titles,
    whiskers,
)
from reproduce.frame import ends_of
from reproduce.words import ours

OPENING = 3
TITLE = "Accuracy against peak memory"
CAPTION = (
    "Final test accuracy, mean over seeds with its 95 % Student interval, against the peak tensor "
    "bytes of the method's step, in FP32 (filled) and INT8 (hollow). The line is the Pareto front: "
    "nothing shown has both less memory and more accuracy than what lies on it. Left out: methods "
    "whose memory was not measured, and int8*, whose bytes are INT8's. No step is streamed. "
    "Inside: the methods that need hardly more than the least in FP32, on axes of their own."
)
SHOWN = ("fp32", "int8")
CLOSE, FEW = 1.12, 4  # times the least bytes, and from how many methods on they are drawn larger
INSIDE = (0.17, 0.13, 0.34, 0.5)  # of the axes: left, bottom, width, height
Point = tuple[str, str, float, float, Any]  # precision, method, MB, mean, and its interval's reach


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model and data set."""
    peaks = frame[(frame.metric == "peak_tensor_bytes") & frame.value.notna()]
    peaks = peaks[peaks.variant == ""] if len(peaks) else peaks  # not streamed
    bytes_of = peaks.groupby(["model", "precision", "method"]).value.min()
    points: dict[tuple[str, str], list[Point]] = {}
    for (model, data, precision), runs in ends_of(frame).items():
        for method in order(runs.method) if precision in SHOWN else ():
            if (model, precision, method) in bytes_of:
                mean, reach = whiskers(list(runs[runs.method == method].value))
                megabytes = bytes_of[model, precision, method] / 1e6
                points.setdefault((data, model), []).append(
                    (precision, method, megabytes, mean, reach)
                )
    if not points:
        return None
    figure, axes = panels(len(points), height=2.4)
    place = titles(data for data, _ in points).index
    for ax, (data, model) in zip(axes, sorted(points, key=lambda x: place(x[0])), strict=True):
        mine = points[data, model]
        _marks(ax, mine)
        across, up = zip(*front([(x, y) for _, _, x, y, _ in mine]), strict=True)
        ax.plot(across, up, color="0.5", linewidth=0.8, zorder=0, drawstyle="steps-post")
        ax.set(
            title=title(model, data),
            xlabel="peak tensor bytes of a step (MB)",
            ylabel="final test accuracy (%)",
        )
        log_axis(ax, [x for _, _, x, _, _ in mine])
        _inside(ax, [point for point in mine if point[0] == "fp32"])
    below(figure, 2)
    return figure


def _marks(ax: Axes, points: list[Point]) -> None:
    for precision, method, megabytes, mean, reach in points:
        ax.errorbar(
            megabytes,
            mean,
            yerr=reach,
            label=ours(method) if precision == "fp32" else None,
            color=COLOURS.get(method),
            marker=MARKERS.get(method, "X"),
            fillstyle="full" if precision == "fp32" else "none",
            capsize=2,
            linewidth=0.8,
            linestyle="",
        )


def _inside(ax: Axes, points: list[Point]) -> None:
    """The points that lie together at the least bytes, larger."""
    least = min((point[2] for point in points), default=0.0)
    close = [point for point in points if point[2] < CLOSE * least]
    if len(close) < FEW:
        return
    inner = ax.inset_axes(INSIDE)
    _marks(inner, close)
    inner.tick_params(labelsize=5, length=2, pad=1)
    inner.margins(0.12)
    (low, high), (least_y, most_y) = ax.get_ylim(), inner.get_ylim()
    inner.set_ylim(max(low, least_y), min(high, most_y))
    inner.xaxis.set_major_locator(MaxNLocator(3))
    ax.indicate_inset_zoom(inner, edgecolor="0.5")


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (bytes, accuracy) that none beats in both, by growing bytes.

    >>> front([(1.0, 80.0), (2.0, 70.0), (3.0, 90.0)])
    [(1.0, 80.0), (3.0, 90.0)]
    """
    kept: list[tuple[float, float]] = []
    for point in sorted(points, key=lambda p: (p[0], -p[1])):
        if not kept or point[1] > kept[-1][1]:
            kept.append(point)
    return kept
