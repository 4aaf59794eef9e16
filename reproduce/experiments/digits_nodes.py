"""Node perturbation, ours, on digits."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Forty epochs, three seeds, in fp32."""
    methods = ("full-zo-node", "elastic-node-2")
    return training("lenet5", "digits", methods, seeds=SEEDS, epochs=40)
