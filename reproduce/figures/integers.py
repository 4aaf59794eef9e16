"""INT8 against FP32: accuracy, memory and time."""

from collections.abc import Callable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce import rules
from reproduce.figures._style import BAND, below, forest, log_axis, mark, order, panels, whiskers
from reproduce.frame import by_seed, ends_of
from reproduce.judge import interval
from reproduce.words import data_order, said

OPENING = 5
TITLE = "INT8 against FP32: accuracy, memory, time"
CAPTION = (
    "Accuracy: INT8 minus FP32 with the same seed, mean and 90 % Student interval; the dashed line "
    "is the margin, one point. Memory and time: FP32 over INT8; 32 x 2 is a batch of 32 on two "
    "threads, and time's interval is over rounds of one run. As installed, FP32 takes every layer "
    "whole and INT8 in tiles, which measures more than the number format; whole and streamed treat "
    "both alike. The grey bands are what the paper prints."
)
MEMORY, TIME = (1.46, 1.60), (1.38, 1.42)
HOW = {
    "as installed": ("o", "#0072B2"),
    "both whole": ("s", "#D55E00"),
    "both streamed": ("^", "#009E73"),
}
CELL = ["model", "method", "variant_of_shape", "device"]
Part = tuple[int, Callable[[Axes], None]]  # lines, and what draws them


def draw(frame: pd.DataFrame) -> Figure | None:
    """One panel each for accuracy, memory and time."""
    parts = [part for make in (_accuracy, _memory, _time) if (part := make(frame))]
    if not parts:
        return None
    height = 0.9 + 0.14 * sum(n for n, _ in parts) / len(parts)
    figure, axes = panels(len(parts), height)
    for ax, (_, paint) in zip(axes, parts, strict=True):
        paint(ax)
        ax.tick_params(axis="y", labelsize=6)
    below(figure)
    return figure


def _accuracy(frame: pd.DataFrame) -> Part | None:
    ends = ends_of(frame)
    lines = []
    for model, data, precision in ends:
        if precision == "int8" and (model, data, "fp32") in ends:
            for method in order(ends[model, data, precision].method):
                ours, theirs = (by_seed(ends[model, data, p], method) for p in (precision, "fp32"))
                if values := list((ours - theirs).dropna()):
                    lines.append((data, method, values))
    names = data_order({data for data, *_ in lines})
    methods = order(method for _, method, _ in lines)
    lines.sort(key=lambda x: (names.index(x[0]), methods.index(x[1])))

    def paint(ax: Axes) -> None:
        for n, (_, _, values) in enumerate(lines):
            mean, low, high = interval(values, 0.9)
            reach = [[mean - low], [high - mean]] if len(values) > 1 else None
            mark(ax, mean, -n, reach, marker="o", color="#0072B2")
        margin = -rules.MARGINS["int8-accuracy"].size
        ax.axvline(margin, color="#9c1c00", linewidth=1, linestyle="--")
        ax.axvline(0, color="0.3", linewidth=0.8)
        forest(ax, [f"{said(d)}, {m}" for d, m, _ in lines], "INT8 minus FP32 (points)")
        ax.set_title("accuracy, and the margin")

    return (len(lines), paint) if lines else None


def _memory(frame: pd.DataFrame) -> Part | None:
    peaks = frame[(frame.metric == "peak_tensor_bytes") & (frame.value > 0)]
    peaks = peaks[peaks.method.isin(["full-zo", "elastic-1", "elastic-2", "full-bp"])]
    key = [*CELL, "variant"]
    float32 = peaks[peaks.precision == "fp32"].groupby(key).value.last().rename("fp32")
    both = peaks[peaks.precision == "int8"].join(float32, on=key).dropna(subset=["fp32"])
    found = [
        (f"{said(r.model)}, {r.method}", "both streamed" if r.variant else "as installed", ratio)
        for r, ratio in zip(both.itertuples(), both.fp32 / both.value, strict=True)
    ]
    whole = frame[(frame.metric == "fp32_bytes_over_int8-whole") & (frame.threads == 1)]
    whole = whole[whole["config.batch_size"] != 256] if len(whole) else whole
    found += [(f"{said(r.model)}, {r.method}", "both whole", r.value) for r in whole.itertuples()]
    names = [f"{said(m)}, {x}" for m in sorted(set(peaks.model)) for x in order(peaks.method)]
    names = [name for name in names if name in {name for name, *_ in found}]

    def paint(ax: Axes) -> None:
        for how, (marker, colour) in HOW.items():
            mine = [(ratio, -names.index(name)) for name, form, ratio in found if form == how]
            if mine:
                ax.plot(*zip(*mine, strict=True), marker, label=how, color=colour)
        ax.axvspan(*MEMORY, **BAND, label="printed")
        log_axis(ax, [*MEMORY, *(ratio for *_, ratio in found)])
        forest(ax, names, "FP32 over INT8 (times)")
        ax.set_title("peak tensor bytes of a step")

    return (len(names) + 2, paint) if found else None


def _time(frame: pd.DataFrame) -> Part | None:
    turns = frame[(frame.metric == "turn_seconds") & (frame.value > 0)]
    if len(turns):
        turns = turns[turns["variant"].str.match("$|layout ")]
        cell = [*CELL, "threads", "processor", "precision"]
        own = turns.groupby([*cell, "variant"]).value.transform("median")
        fastest = own.groupby([turns[name] for name in cell]).transform("min")
        turns = turns[own == fastest]
    lines = []
    place = order(turns.method).index
    groups = sorted(
        turns.groupby([*CELL, "threads", "processor"]),
        key=lambda x: (x[0][0], place(x[0][1]), x[0]),
    )
    for names, group in groups:
        rounds = {p: list(g.value) for p, g in group.groupby("precision")}
        pairs = list(zip(rounds.get("fp32", []), rounds.get("int8", []), strict=False))
        if pairs:
            model, method, shape, _, threads, processor = names
            batch = shape.split(",")[0].removeprefix("batch ")
            where = f"{said(model)}, {method}, {batch} x {threads}"
            lines.append((where, processor, [a / b for a, b in pairs]))

    def paint(ax: Axes) -> None:
        machines = list(dict.fromkeys(processor for _, processor, _ in lines))
        for n, (_, processor, ratios) in enumerate(lines):
            mean, reach = whiskers(ratios)
            style = "os^Dv"[machines.index(processor) % 5]
            name = f"time on {processor}" if len(machines) > 1 else None
            mark(ax, mean, -n, reach, label=name, marker=style, color="#000000")
        ax.axvspan(*TIME, **BAND, label="printed")
        log_axis(ax, [*TIME, *(ratio for *_, ratios in lines for ratio in ratios)])
        forest(ax, [name for name, *_ in lines], "FP32 over INT8 (times)")
        ax.set_title("time of a step")

    return (len(lines) + 2, paint) if lines else None
