"""A plan as a plot."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ezo.data._files import extra
from ezo.livebytes import KINDS

if TYPE_CHECKING:
    from ezo.plan.prediction import Plan


def blank(path: Path) -> Any:
    """An empty figure, which matplotlib could write to a path.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
        ValueError: it does not write such a file, or the folder is not there.
    """
    make = extra("matplotlib.figure", "reproduce").Figure
    figure = make(figsize=(7.4, 5), layout="constrained")
    known = figure.canvas.get_supported_filetypes()
    if path.suffix and path.suffix[1:].lower() not in known:
        raise ValueError(
            f"expected a file that matplotlib writes, {', '.join(known)}, got '{path}'; name it "
            "for example plan.svg"
        )
    if not path.parent.is_dir():
        raise ValueError(f"expected a file in a folder, got '{path}'; make its folder first")
    return figure


def draw(found: "Plan", path: Path | str) -> None:
    """As `ezo.plan.Plan.draw` says."""
    figure = blank(Path(path))
    above, below = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    places = range(len(found.predictions))
    bottom = [0.0] * len(places)
    greys = [f"{0.1 + 0.85 * i / (len(KINDS) - 1):.2f}" for i in range(len(KINDS))]
    for kind, grey in zip(KINDS, greys, strict=True):
        heights = [p.peak.kinds[kind] / 1e6 for p in found.predictions]
        above.bar(places, heights, 0.8, bottom, label=kind, color=grey, edgecolor="0.1", lw=0.4)
        bottom = [b + h for b, h in zip(bottom, heights, strict=True)]
    above.axhline(found.inference.peak_bytes / 1e6, color="tab:blue", ls=":", label="inference")
    if found.budget is not None:
        above.axhline(found.budget / 1e6, color="tab:red", ls="--", label="budget")
    above.set(ylabel="predicted peak of a step (MB)")
    figure.legend(loc="outside right upper", fontsize=8)
    below.plot(places, [p.relative_time for p in found.predictions], c="0.1", marker=".")
    below.set(ylabel="time / two\nforward passes", ylim=(0, None))
    below.set_xticks(places, [found.label(p) for p in found.predictions], rotation=90, fontsize=8)
    figure.savefig(path)
