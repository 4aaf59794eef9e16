"""LeNet-5 in integers in the paper's form: ZO moves by a sign, and weights have no fraction."""

from dataclasses import replace
from typing import Any

from ezo.precisions.int8 import Int8Hyper
from ezo.train import Run
from reproduce.experiments._runs import FIVE_SEEDS

KIND = "sign"
FORM = Int8Hyper(magnitude="sign", fraction=0, mu=3, mu_drop=3)
# The best of the trials of each on held-out examples of MNIST (reports/search).
CHOSEN: dict[str, dict[str, Any]] = {
    "full-zo": {"rate": 6000, "p_zero": 0.5},
    "elastic-1": {"rate": 3000, "p_zero": 0.5},
    "elastic-2": {"rate": 3000, "p_zero": 0.8},
}


def runs() -> list[Run]:
    """Twenty epochs of MNIST and of Fashion-MNIST, five seeds."""
    return [
        Run("lenet5", data, method, "int8", epochs=20, seed=seed, hyper=replace(FORM, **values))
        for data in ("mnist", "fashion-mnist")
        for seed in FIVE_SEEDS
        for method, values in CHOSEN.items()
    ]
