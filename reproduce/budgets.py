"""Search budgets: how many trials on held-out examples are behind the values of each method.

A trial is a run on held-out examples by which values could have been chosen: of any length, stopped
early or not, whether it changed a value or not. It does not count where it was settled before that
its values would not be taken, as of reports/search/lenet5-mnist-elastic-by-hand. What takes the
values of another takes its trials, too.
"""

from collections.abc import Iterable

from ezo.rows import Row
from reproduce.select import experiment

_SIX = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp")
# Own trials by (data, precision) and method; rows in reports/search.
TRIALS: dict[tuple[str, str], dict[str, int]] = {
    ("mnist", "fp32"): {
        **dict.fromkeys(_SIX, 10),
        **dict.fromkeys(("full-zo-node", "full-zo-feedback", "elastic-node-2"), 3),
        "elastic-feedback-2": 1,
        "elastic-lean-2": 1,
    },
    ("fashion-mnist", "fp32"): {"elastic-lean-2": 1},
    ("mnist", "int8"): {
        **dict(zip(_SIX, (4, 5, 5, 5, 3, 2), strict=True)),
        "full-zo-node": 21,
    },
    ("fashion-mnist", "int8"): {"elastic-1": 26, "elastic-2": 5, "tail-only-1": 1},
    ("shapes-upright-64", "fp32"): {  # from He weights and from centred ones
        **{"full-zo": 18, "full-zo-node": 17, "full-zo-feedback": 3},
        **{"tail-only-1": 17, "tail-only-2": 19},
    },
}
# The same for experiments with more perturbations a step, beyond those of one.
TRIALS_OF_KIND: dict[tuple[str, str], dict[str, int]] = {
    ("long", "int8"): {"elastic-2": 5},
    ("fine-tuning-queries", "fp32"): {"elastic-1": 4},
    ("fine-tuning-queries", "int8"): {"elastic-1": 23},
}
SIGN = {"full-zo": 12, "elastic-1": 10, "elastic-2": 10}  # of INT8 in the paper's form, on MNIST
# Whose values a method takes, beside its own, by the beginning of the data's name.
TAKES = {
    "mnist": {
        **dict.fromkeys(("elastic-3", "elastic-4", "elastic-lean-2"), "elastic-2"),
        "elastic-lean-3": "elastic-lean-2",
        **dict.fromkeys(("tail-only-3", "tail-only-4"), "tail-only-2"),
    },
    "shapes-upright": {
        **dict.fromkeys(("elastic-1", "elastic-2"), "full-zo"),
        **dict.fromkeys(("elastic-node-1", "elastic-node-2"), "full-zo-node"),
        "elastic-feedback-1": "full-zo-feedback",
    },
}
TAKES["fashion-mnist"] = TAKES["mnist"]
OF_FLOATS = ("full-zo", "elastic-1", "elastic-2")  # in int8 these take fp32's values for ZO


def trials(kind: str, data: str, precision: str, method: str) -> int:
    """How many trials on held-out examples are behind the values of a run.

    >>> trials("training", "fashion-mnist", "int8", "elastic-1")
    41
    """
    if kind == "sign":
        return SIGN.get(method, 0)
    base, integers = data.partition("-rot")[0], precision.replace("*", "")
    found = TRIALS_OF_KIND.get((kind, integers), {}).get(method, 0)
    for source in dict.fromkeys((base, "mnist")) if "mnist" in base else (base,):
        found += TRIALS.get((source, integers), {}).get(method, 0)
    if integers != "fp32" and method in OF_FLOATS:
        found += trials("", data, "fp32", method)
    for beginning, takes in TAKES.items():
        if data.startswith(beginning) and method in takes:
            found += trials("", data, precision, takes[method])
    return found


def unequal(rows: Iterable[Row]) -> str:
    """Why there is no verdict between the runs of these rows; nothing where their budgets agree."""
    counts = {
        (row.method, row.precision.replace("*", "")): trials(
            experiment(row), row.data, row.precision, row.method
        )
        for row in rows
    }
    if len(set(counts.values())) < 2:
        return ""
    precisions = {precision for _, precision in counts}
    told = [
        f"{n} of {method}" + (f" in {precision}" if len(precisions) > 1 else "")
        for (method, precision), n in counts.items()
    ]
    return f"searched unequally, trials: {', '.join(told)}"
