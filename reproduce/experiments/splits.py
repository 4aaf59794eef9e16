"""LeNet-5 on MNIST with more BP layers."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Twenty epochs, three seeds, in fp32."""
    return training("lenet5", "mnist", ("elastic-3", "elastic-4"), seeds=SEEDS, epochs=20)
