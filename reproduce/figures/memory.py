"""Peak memory of a step over that of inference, at every split."""

import pandas as pd
from matplotlib.figure import Figure

from reproduce.figures._style import below, forest, order, panels, title
from reproduce.words import ours

OPENING = 2
TITLE = "Memory of a step over that of inference"
CAPTION = (
    "How much more than a pass of inference in the same precision a training step needs at its "
    "peak: in exact tensor bytes (filled) and in the whole heap (hollow). What is streamed takes "
    "its first layers a few examples at a time, inference too. The axis is linear below 1 % and "
    "logarithmic above."
)
METRICS = {"peak_tensor_bytes": ("tensors", "full"), "heap_peak_bytes": ("heap", "none")}
COLOURS = {"fp32": "#0072B2", "int8": "#D55E00", "int8*": "#8F4E8B"}
LIFT = {"peak_tensor_bytes": 0.16, "heap_peak_bytes": -0.16}
MARKS = "o^vsD"  # of what is whole, and of each chunk


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel for each model and batch."""
    found = frame[frame.metric.isin(list(METRICS)) & (frame.value > 0)]
    key = ["model", "precision", "settings", "metric"]
    base = found[found.method == "inference"].groupby(key).value.last().rename("base")
    found = found[found.method != "inference"].join(base, on=key).dropna(subset=["base"])
    found = found[~found.method.str.startswith("tail-only")]
    if found.empty:
        return None
    found = found.assign(more=(100 * (found.value / found.base - 1)).clip(lower=0))
    shapes = list(found.groupby(["model", "variant_of_shape"]))
    variants = sorted({*found.variant})
    heights = [0.9 + 0.17 * group.method.nunique() for _, group in shapes]
    figure, axes = panels(len(shapes), heights=heights)
    for ax, ((model, shape), group) in zip(axes, shapes, strict=True):
        methods = order(group.method)
        for (precision, variant, metric), mine in group.groupby(["precision", "variant", "metric"]):
            name, fill = METRICS[metric]
            ax.plot(
                mine.more,
                [LIFT[metric] - methods.index(method) for method in mine.method],
                label=f"{title(precision)}, {name}" + (f", {variant}" if variant else ""),
                marker=MARKS[variants.index(variant) % len(MARKS)],
                fillstyle=fill,
                linestyle="",
                color=COLOURS.get(precision, "0.4"),
            )
        ax.set_xscale("symlog", linthresh=1, linscale=0.6)
        ax.set_xlim(-0.1, 2 * group.more.max() + 1)
        ax.set_xticks([x for x in (0, 1, 10, 100, 1000) if x < 2 * group.more.max() + 1])
        ax.xaxis.set_major_formatter("{x:g}")
        forest(ax, list(map(ours, methods)), "more than inference (%)")
        ax.set_title(f"{title(model)}, {shape}")
    below(figure, 2)
    return figure
