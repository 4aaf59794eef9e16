"""FP32 over INT8: memory and time of a step over batch sizes and threads."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, MARKERS, order, panels

TITLE = "FP32 over INT8: memory and time of a step"
CAPTION = (
    "Medians of fp32 over medians of int8 or int8*: above 1, integers need less memory or time. "
    "The grey band is the range that the paper prints."
)
METRICS = {
    "peak_tensor_bytes": ("peak tensor bytes", (1.46, 1.60)),
    "turn_seconds": ("step time", (1.38, 1.42)),
}
CELL = ["model", "method", "config.batch_size", "threads", "device"]


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each quantity, model, integer precision and number of threads."""
    frame = frame[frame.metric.isin(list(METRICS)) & (frame.value > 0)]
    if frame.empty:
        return None
    medians = frame.groupby(["metric", "precision", "variant", *CELL]).value.median().reset_index()
    float32 = medians[medians.precision == "fp32"].drop(columns=["precision", "variant"])
    integers = medians[medians.precision.str.startswith("int8")]
    both = integers.merge(float32, on=["metric", *CELL], suffixes=("", "_fp32"))
    both = both[both.method != "inference"]
    if both.empty:
        return None
    both = both.assign(ratio=both.value_fp32 / both.value)
    parts = list(both.groupby(["metric", "model", "precision", "variant", "threads"]))
    figure, axes = panels(len(parts), height=3.0)
    for ax, ((metric, model, precision, variant, threads), group) in zip(axes, parts, strict=True):
        name, printed = METRICS[metric]
        for method in order(group.method):
            mine = group[group.method == method].sort_values("config.batch_size")
            ax.plot(
                mine["config.batch_size"],
                mine.ratio,
                label=method,
                color=COLOURS.get(method),
                marker=MARKERS.get(method),
            )
        ax.axhspan(*printed, color="0.7", alpha=0.5, label="printed")
        ax.axhline(1.0, color="0.3", linewidth=0.8)
        ax.set(
            title=", ".join(filter(None, (model, name, variant, _threads(threads)))),
            xlabel="batch (examples)",
            ylabel=f"fp32 / {precision} (ratio)",
            xscale="log",
            ylim=(0, 1.15 * max(group.ratio.max(), *printed)),
        )
        ax.set_xticks(sorted(group["config.batch_size"].unique()))
        ax.set_xticklabels([f"{x:.0f}" for x in sorted(group["config.batch_size"].unique())])
        ax.minorticks_off()
        ax.legend(fontsize=7, loc="best")
    return figure


def _threads(n: int) -> str:
    """How many threads."""
    return f"{n} thread{'s' if n > 1 else ''}"
