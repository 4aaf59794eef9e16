"""The lean forms on MNIST and Fashion-MNIST."""

from ezo.train import Run
from reproduce.experiments._runs import FIVE_SEEDS, SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Twenty epochs in fp32; elastic-lean-2 with three seeds, elastic-lean-3 with five."""
    found = []
    for data in ("mnist", "fashion-mnist"):
        found += training("lenet5", data, ("elastic-lean-2",), seeds=SEEDS, epochs=20)
        found += training("lenet5", data, ("elastic-lean-3",), seeds=FIVE_SEEDS, epochs=20)
    return found
