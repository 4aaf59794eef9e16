"""The lean forms on MNIST and Fashion-MNIST, and two more seeds of full BP beside them."""

from ezo.train import Run
from reproduce.experiments._runs import MORE_SEEDS, SEEDS, training

KIND = "training"


def runs() -> list[Run]:
    """Twenty epochs in fp32; elastic-lean-2 with three seeds, elastic-lean-3 with five."""
    found = []
    for data in ("mnist", "fashion-mnist"):
        lean = ("elastic-lean-2", "elastic-lean-3")
        found += training("lenet5", data, lean, seeds=SEEDS, epochs=20)
        found += training(
            "lenet5", data, ("elastic-lean-3", "full-bp"), seeds=MORE_SEEDS, epochs=20
        )
    return found
