"""Peak memory of a training step, method by method."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, order, panels

TITLE = "Peak memory of a training step"
CAPTION = "Exact tensor bytes at the peak, over those of inference on the same batch."


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model."""
    frame = frame[(frame.metric == "peak_tensor_bytes") & frame.value.notna()]
    if frame.empty:
        return None
    groups = list(frame.groupby("model"))
    figure, axes = panels(len(groups), height=2.8)
    for ax, (model, group) in zip(axes, groups, strict=True):
        peaks = group.set_index("method").value
        methods = order(peaks.index)[::-1]
        ratios = [peaks[m] / peaks["inference"] for m in methods]
        bars = ax.barh(methods, ratios, color=[COLOURS.get(m) for m in methods], edgecolor="0.2")
        ax.bar_label(
            bars,
            [f"{r:.3f}  ({peaks[m] / 1e6:,.2f} MB)" for r, m in zip(ratios, methods, strict=True)],
            padding=3,
            fontsize=7,
        )
        batch = int(group["config.batch_size"].iloc[0])
        ax.set(
            title=f"{model}, batch {batch}",
            xlabel="peak bytes / inference's",
            xlim=(0, max(ratios) * 1.45),
        )
    return figure
