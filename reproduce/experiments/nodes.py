"""Node perturbation and learned feedback, ours, on MNIST and Fashion-MNIST from fresh weights."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"
METHODS = ("full-zo-node", "full-zo-feedback", "elastic-node-2", "elastic-feedback-2")


def runs() -> list[Run]:
    """Twenty epochs, three seeds: what `mnist` and `fashion-mnist` have of the others.

    In fp32, and full-zo-node in int8, too.
    """
    return [
        run
        for data in ("mnist", "fashion-mnist")
        for methods, precision in ((METHODS, "fp32"), (METHODS[:1], "int8"))
        for run in training("lenet5", data, methods, seeds=SEEDS, epochs=20, precision=precision)
    ]
