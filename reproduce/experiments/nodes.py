"""Node perturbation and learned feedback, ours, on MNIST and Fashion-MNIST from fresh weights."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"
METHODS = ("full-zo-node", "full-zo-feedback", "elastic-node-2", "elastic-feedback-2")


def runs() -> list[Run]:
    """Twenty epochs, three seeds, in fp32: what `mnist` and `fashion-mnist` have of the others."""
    return [
        run
        for data in ("mnist", "fashion-mnist")
        for run in training("lenet5", data, METHODS, seeds=SEEDS, epochs=20)
    ]
