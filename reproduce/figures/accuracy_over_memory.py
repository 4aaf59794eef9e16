"""Final accuracy against peak memory over the split points, with the Pareto front."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, MARKERS, order, panels, whiskers
from reproduce.frame import GROUP, last, trained

TITLE = "Accuracy against peak memory"
CAPTION = (
    "Final test accuracy, mean over seeds with its 95 % Student interval, against the method's "
    "peak tensor bytes. The line is the Pareto front: nothing shown has both less memory and "
    "more accuracy than what lies on it. Methods whose memory was not measured are left out."
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, data set and precision that has both."""
    peaks = frame[(frame.metric == "peak_tensor_bytes") & frame.value.notna()]
    ends = last(trained(frame, "test_accuracy"))
    if peaks.empty or ends.empty:
        return None
    peaks = peaks.merge(
        ends[["model", "precision", "method", "config.batch_size"]].drop_duplicates()
    )
    bytes_of = peaks.groupby(["model", "precision", "method"]).value.min()
    groups = [
        (names, group)
        for names, group in ends.groupby(GROUP)
        if any((names[0], names[2], method) in bytes_of for method in group.method)
    ]
    if not groups:
        return None
    figure, axes = panels(len(groups))
    for ax, ((model, data, precision), group) in zip(axes, groups, strict=True):
        points = []
        for method in order(group.method):
            if (model, precision, method) not in bytes_of:
                continue
            mean, reach = whiskers(list(group[group.method == method].value))
            megabytes = bytes_of[model, precision, method] / 1e6
            points.append((megabytes, mean))
            ax.errorbar(
                megabytes,
                mean,
                yerr=reach,
                label=method,
                color=COLOURS.get(method),
                marker=MARKERS.get(method),
                capsize=3,
                linestyle="",
            )
        across, up = zip(*front(points), strict=True)
        ax.plot(across, up, color="0.5", linewidth=1, zorder=0, drawstyle="steps-post")
        ax.set(
            title=f"{model}, {data}, {precision}",
            xlabel="peak tensor bytes of a step (MB)",
            ylabel="final test accuracy (%)",
        )
        ax.legend(fontsize=7, loc="best")
    return figure


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
