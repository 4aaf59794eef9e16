"""LeNet-5 on digits in int8 for long enough that every method has learnt."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "long"
METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")


def runs() -> list[Run]:
    """150 epochs, three seeds."""
    return training("lenet5", "digits", METHODS, seeds=SEEDS, epochs=150, precision="int8")
