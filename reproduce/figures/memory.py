"""Peak memory of a training step, method by method."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import COLOURS, order, panels

TITLE = "Peak memory of a training step"
CAPTION = (
    "Exact tensor bytes at the peak of a step; in brackets, how many times those of fp32 inference "
    "on the same batch."
)


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model, precision and setting."""
    peaks = frame[(frame.metric == "peak_tensor_bytes") & frame.value.notna()]
    if peaks.empty:
        return None
    parts = list(peaks.groupby(["model", "precision", "settings"]))
    figure, axes = panels(len(parts), height=3.2)
    for ax, ((model, precision, settings), group) in zip(axes, parts, strict=True):
        by_method = group.groupby("method").value.last()
        methods = order(by_method.index)[::-1]
        base = peaks[
            (peaks.model == model)
            & (peaks["config.batch_size"] == group["config.batch_size"].iloc[0])
            & (peaks.precision == "fp32")
            & (peaks.method == "inference")
        ].value
        megabytes = [by_method[m] / 1e6 for m in methods]
        bars = ax.barh(
            methods, megabytes, color=[COLOURS.get(m, "0.6") for m in methods], edgecolor="0.2"
        )
        texts = [
            f"{x:,.2f}" + (f"  ({x * 1e6 / base.iloc[-1]:.3f}x)" if len(base) else "")
            for x in megabytes
        ]
        ax.bar_label(bars, texts, padding=3, fontsize=7)
        ax.set(
            title=f"{model}, {precision}, {settings}",
            xlabel="peak tensor bytes (MB)",
            ylabel="method",
            xlim=(0, max(megabytes) * 1.5),
        )
    return figure
