"""LeNet-5 on Fashion-MNIST from fresh weights: six methods in every number format."""

from ezo.train import Run
from reproduce.experiments._runs import METHODS, SEEDS, training

KIND = "training"
PRECISIONS = ("fp32", "int8", "int8*")


def runs() -> list[Run]:
    """Twenty epochs, three seeds."""
    return [
        run
        for precision in PRECISIONS
        for run in training(
            "lenet5", "fashion-mnist", METHODS, seeds=SEEDS, epochs=20, precision=precision
        )
    ]
