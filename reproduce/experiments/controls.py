"""The controls of elastic-3, elastic-4 and elastic-lean-3: those BP layers of LeNet-5 alone."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Twenty epochs, three seeds, in fp32."""
    mnist = training("lenet5", "mnist", ("tail-only-3", "tail-only-4"), seeds=SEEDS, epochs=20)
    return mnist + training("lenet5", "fashion-mnist", ("tail-only-3",), seeds=SEEDS, epochs=20)
