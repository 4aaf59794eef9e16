"""One look for all figures: colours that the colour-blind tell apart, and marks that grey keeps."""

from collections.abc import Iterable

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ORDER = (
    "inference",
    "full-zo",
    "tail-only-1",
    "tail-only-2",
    "elastic-1",
    "elastic-2",
    "full-bp-checkpoint",
    "full-bp",
)
COLOURS = dict(zip(ORDER, sns.color_palette("colorblind", len(ORDER)), strict=True))
MARKERS = dict(zip(ORDER, "PovsD^Xh", strict=True))


def order(methods: Iterable[str]) -> list[str]:
    """Methods in the order in which every figure shows them."""
    present = set(methods)
    return [m for m in ORDER if m in present] + sorted(present - set(ORDER))


def panels(n: int, width: float = 4.6, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """A row of n axes."""
    sns.set_theme(style="whitegrid", context="paper")
    plt.rcParams.update({"svg.hashsalt": "ezo", "svg.fonttype": "path", "figure.dpi": 150})
    figure, axes = plt.subplots(
        1, n, figsize=(width * n, height), squeeze=False, layout="constrained"
    )
    return figure, list(axes[0])
