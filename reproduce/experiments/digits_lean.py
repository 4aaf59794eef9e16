"""elastic-lean-3 on digits."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Forty epochs, three seeds, in fp32."""
    return training("lenet5", "digits", ("elastic-lean-3",), seeds=SEEDS, epochs=40)
