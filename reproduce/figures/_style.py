"""One look for all figures: colours that the colour-blind tell apart, and marks that grey keeps."""

from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reproduce.judge import interval

ORDER = (
    "inference",
    "full-zo",
    "full-zo-node",
    "full-zo-feedback",
    "tail-only-1",
    "tail-only-2",
    "elastic-1",
    "elastic-node-1",
    "elastic-feedback-1",
    "elastic-2",
    "elastic-lean-2",
    "elastic-node-2",
    "elastic-feedback-2",
    "elastic-3",
    "elastic-lean-3",
    "elastic-4",
    "full-bp-checkpoint",
    "full-bp",
)


VARIANTS = ("lean-", "node-", "feedback-", "-node", "-feedback")  # of a method, in its colour


def _kin(name: str) -> str:
    """The method that a variant is of.

    >>> _kin("elastic-node-2"), _kin("full-zo-feedback")
    ('elastic-2', 'full-zo')
    """
    return next((name.replace(part, "") for part in VARIANTS if part in name), name)


def _line(name: str) -> str | tuple[int, tuple[int, ...]]:
    styles: dict[str, str | tuple[int, tuple[int, ...]]] = {
        **{"tail": "--", "lean": ":", "node": (0, (5, 1)), "feedback": (0, (3, 1, 1, 1))},
        **{"full-bp": "-.", "-3": "-.", "-4": "-."},
    }
    return next((style for part, style in styles.items() if part in name), "-")


COLOURS = dict(
    zip(
        [name for name in ORDER if _kin(name) == name],
        ("0.2", *sns.color_palette("colorblind")),
        strict=False,
    )
)
COLOURS |= {name: COLOURS[_kin(name)] for name in ORDER}
NODES = [name for name in ORDER if "node" in name or "feedback" in name]
MARKERS = dict(zip([name for name in ORDER if name not in NODES], "PovsD^*<1>Xh", strict=True))
MARKERS |= dict(zip(NODES, "8pdHx+", strict=True))
LINES = {name: _line(name) for name in ORDER}
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\", "oo", "++")
COLUMNS = 2  # of panels, so that a phone can show them


def order(methods: Iterable[str]) -> list[str]:
    """Methods in the order in which every figure shows them."""
    present = set(methods)
    return [m for m in ORDER if m in present] + sorted(present - set(ORDER))


def panels(n: int, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """n axes, two in a row."""
    sns.set_theme(style="whitegrid", context="paper")
    matplotlib.rcParams.update({"svg.hashsalt": "ezo", "svg.fonttype": "path", "figure.dpi": 150})
    columns = min(n, COLUMNS)
    lines = -(-n // columns)
    figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
    axes = list(figure.subplots(lines, columns, squeeze=False).flat)
    for ax in axes[n:]:
        ax.remove()
    return figure, axes[:n]


def whiskers(values: Sequence[float]) -> tuple[float, list[list[float]] | None]:
    """Mean, and how far its 95 % interval reaches down and up; None for a single value."""
    mean, low, high = interval(list(values))
    return mean, None if len(values) == 1 else [[mean - low], [high - mean]]


def patches(n: int) -> list[dict[str, Any]]:
    """Fill and hatching of n parts of a stack, told apart without colour."""
    colours = sns.color_palette("colorblind", n)
    return [
        {"color": colours[i], "hatch": HATCHES[i % len(HATCHES)], "edgecolor": "white"}
        for i in range(n)
    ]
