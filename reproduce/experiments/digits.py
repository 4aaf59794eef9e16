"""LeNet-5 on digits from fresh weights, in fp32 and int8."""

from ezo.train import Run
from reproduce.experiments._runs import METHODS, SEEDS, training

KIND = "training"


def runs(
    methods: tuple[str, ...] = METHODS,
    seeds: tuple[int, ...] = SEEDS,
    epochs: int = 40,
    precisions: tuple[str, ...] = ("fp32", "int8"),
) -> list[Run]:
    """Forty epochs, three seeds."""
    return [
        run
        for precision in precisions
        for run in training(
            "lenet5", "digits", methods, seeds=seeds, epochs=epochs, precision=precision
        )
    ]
