"""What the paper leaves open: our values, how they were chosen, and what hangs on them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import pandas as pd

from reproduce.frame import last, sensitivity, trained

SEARCHED = "searched"
SEARCHED_HOW = (
    "for LeNet-5 on MNIST in fp32 by `python -m reproduce.search`, ten trials on held-out training "
    "examples for each of the six methods of the paper's tables; elsewhere by hand, or the nearest "
    "values (ezo/tuned.py), or the method's default. reproduce/budgets.py counts the trials, "
    "reports/search has their rows. Of PointNet with batch norm and of digits no rows are kept"
)
BY_HAND = "from a few trials by hand on held-out training examples (reports/search/README.md)"
CONVERTED = "fp32's, turned into integers (reports/search/README.md)"
# name in a row's config: what it is, how it was chosen
SETTINGS = {
    "epochs": ("epochs", "as many as let the schedule end; the same for every method"),
    "batch_size": ("examples a step", "usual for LeNet-5; the same for every method"),
    "lr": ("ZO learning rate", SEARCHED),
    "eps": ("ZO perturbation", SEARCHED),
    "clip": ("bound on |g|", SEARCHED),
    "bp_lr": ("BP learning rate", SEARCHED),
    "schedule": (
        "learning rates over time: exponential to 3 %, or cosine to 0",
        f"{SEARCHED}; full ZO loses what it learnt where a high rate lasts",
    ),
    "momentum": ("BP momentum", "usual"),
    "weight_decay": ("weight decay", "none, so that nothing hides what a method does"),
    "queries": (
        "ZO perturbations a step",
        "one, as in the paper, but where more are named; the ZO rate grows with their root (in "
        f"fine-tuning in fp32 with twice that), {BY_HAND}",
    ),
    "noise": ("ZO noise", "Gaussian, as in the paper, but where another is named"),
    "bp_gradient": (
        "where the BP gradient is taken",
        "mean of the passes: no side is preferred; INT8: one, which saves a backward pass",
    ),
    "lr_node": (
        "learning rate of layers with nodes; node perturbation is ours",
        BY_HAND,
    ),
    "sigma": ("noise on the outputs of those layers", "0.1, of a prototype's trials"),
    "rate": ("INT8: ZO rate", f"{CONVERTED}; on Fashion-MNIST {BY_HAND}"),
    "r_max": (
        "INT8: largest perturbation",
        f"default of ezo/precisions/int8.py; 2 in fine-tuning, half as much with room, {BY_HAND}",
    ),
    "p_zero": ("INT8: share of weights left alone", "default of ezo/precisions/int8.py"),
    "magnitude": (
        "INT8: step size from the loss difference: its sign, over its mean, or in proportion",
        f"{BY_HAND}; the paper's form is the sign",
    ),
    "largest_difference": (
        "INT8: bound on the loss difference, 2^-10 bit",
        f"{CONVERTED}; elastic-1 on Fashion-MNIST {BY_HAND}",
    ),
    "fraction": (
        "INT8: bits of a trained weight that only updates see",
        f"{BY_HAND}; the paper has none",
    ),
    "mu": ("INT8: update width, bits of the largest BP update", BY_HAND),
    "mu_drop": ("INT8: how far the update width falls over the run", BY_HAND),
    "growth": ("INT8: bits of room for BP weights to grow", BY_HAND),
    "zo_growth": ("INT8: the same for ZO weights", BY_HAND),
}
FIXED = (  # what no row's config holds: (what, our choice, how it was chosen)
    (
        "whose method",
        "the paper's: full-zo and elastic-k in fp32, and in int8 in the experiment sign. Int8 and "
        "int8* everywhere else are a form of ours: a step in proportion to the difference of the "
        "losses, where the paper's has its sign, and one more byte a weight. Ours, too: "
        "elastic-lean-k, full-zo-node, elastic-node-k, full-zo-feedback, elastic-feedback-k. "
        "Controls: tail-only-k, full-bp",
        "the paper's form of int8 learns less (int8-accuracy); what is ours is marked, and left "
        "out of the counts of the paper's claims",
    ),
    (
        "initial weights",
        "Xavier uniform, zero biases; pointnet-centred: He uniform, then each unit of mean 0 and "
        "variance 1 over random clouds",
        "full ZO needs it: ezo/models/_init.py",
    ),
    ("input scaling", "mean 0, variance 1 over the training set; clouds: radius 1", "usual"),
    ("last, partial batch of an epoch", "left for the next shuffle", "shapes stay fixed"),
    (
        "seeds",
        "0 to 4 of six methods from fresh weights on LeNet-5 in fp32 and int8, of int8 in the "
        "paper's form, of elastic-lean-3 and of fine-tuning to MNIST turned by 30 degrees; else 0 "
        "to 2; the search uses 1000",
        "rule 3 of reproduce/rules.py; seeds 3 and 4 were added when three had been seen",
    ),
    (
        "fine-tuning",
        "from full BP's final fp32 weights on the unrotated data with the same seed; all training "
        "examples, rotated by the degrees that the data's name ends in",
        "the paper names neither angles nor source; the rates are those of training, and ten "
        "trials of each method for fine-tuning itself, on held-out examples, moved elastic-1 and "
        "full BP alike (reports/search/README.md)",
    ),
    (
        "PointNet's batch norm",
        "with, where it is trained; without, where memory and time are measured",
        "learns in far fewer epochs with it",
    ),
    (
        "PointNet where nodes are perturbed",
        "pointnet-centred, without batch norm, on shapes-upright with 64 points",
        "nodes before the maximum need that no norm lies between; upright as ModelNet40 is; so "
        "few points for the time that a run takes",
    ),
    (
        "PointNet's data",
        "shapes with 256 points, made by ezo/data/shapes.py; ModelNet40 where the user has it",
        "needs no download; so its findings are indications for the paper's claims",
    ),
    (
        "memory",
        "exact tensor bytes at the peak of a step: weights, gradients, optimiser state and batch "
        "included, buffers inside an operation not",
        "exact and repeatable",
    ),
    ("int8*", "integer network, floating-point loss", "the paper does not say what it is"),
    ("device of the timings", "the processor named below", "the paper's is not known to us"),
)


class Entry(NamedTuple):
    """One line of the ledger.

    Attributes:
        what: the assumption.
        choice: our value, or values by method.
        why: how it was chosen.
        effect: how far the final accuracy moves when it alone is changed; empty if not run.
        cases: the runs behind ``effect``.
    """

    what: str
    choice: str
    why: str
    effect: str = ""
    cases: tuple[str, ...] = ()


def entries(table: pd.DataFrame) -> Iterator[Entry]:
    """The ledger, from rows (`reproduce.frame.frame`)."""
    effects: dict[str, list[str]] = {}
    cases: dict[str, list[str]] = {}
    for title, name, lines in sensitivity(table):
        cases.setdefault(name, []).extend(lines.case)
        for method, mine in lines.groupby("method"):
            tried = ", ".join(dict.fromkeys(mine.setting))
            low, high = mine.value.min(), mine.value.max()
            effects.setdefault(name, []).append(
                f"{method} ({title}): {low:.1f} to {high:.1f} % over {tried}"
            )
    ends = last(trained(table, "test_accuracy"))
    for name, (what, why) in SETTINGS.items():
        if f"config.{name}" in ends:
            yield Entry(
                f"{what} ({name})",
                _choices(ends, f"config.{name}"),
                why,
                "; ".join(effects.pop(name, [])),
                tuple(dict.fromkeys(cases.get(name, []))),
            )
    for name, found in effects.items():
        yield Entry(name, "see the runs", "", "; ".join(found), tuple(dict.fromkeys(cases[name])))
    for what, choice, why in FIXED:
        yield Entry(what, choice + (_starts(table) if what == "fine-tuning" else ""), why)


def _starts(table: pd.DataFrame) -> str:
    """Whether the methods of fine-tuning began at the same weights, as the rows tell.

    A processor of another kind gives images that were turned, and weights, other last bits; the
    checksum of the data tells them apart.
    """
    every = ["model", "data", "precision", "seed"]
    ends = last(trained(table, "test_accuracy", "fine-tuning"))
    ends = ends[ends.data_checksum != ""]
    of_bp = ends[ends.method == "full-bp"].set_index(every).data_checksum
    apart = ends[
        [
            of_bp.get(tuple(x), checksum) != checksum
            for *x, checksum in ends[[*every, "data_checksum"]].values
        ]
    ]
    if apart.empty:
        return "; every method from the same weights"
    return (
        f"; every method from the same weights, but for {len(apart)} runs of "
        f"{', '.join(dict.fromkeys(apart.method))} on {', '.join(sorted(set(apart.data)))}, which "
        "another processor made: images and weights differ there in their last bits"
    )


def _choices(ends: pd.DataFrame, column: str) -> str:
    """A value that all share, or how many there are."""
    values = list(dict.fromkeys(ends[column].dropna().map(_text)))
    if len(values) <= 3:
        return ", ".join(values)
    return f"{len(values)} values, by method: see the table below"


def _text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
