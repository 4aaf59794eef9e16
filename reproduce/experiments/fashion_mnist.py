"""LeNet-5 on Fashion-MNIST from fresh weights: six methods, fp32 and int8, ZO in int8* too."""

from ezo.train import Run
from reproduce.experiments._runs import lenet5

KIND = "training"


def runs() -> list[Run]:
    """Twenty epochs; five seeds, in int8* three."""
    return lenet5("fashion-mnist")
