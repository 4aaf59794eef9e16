"""LeNet-5 from full BP's weights on MNIST and Fashion-MNIST to the same images rotated."""

from collections.abc import Iterable

from ezo.train import Run
from reproduce.experiments._runs import (
    FINE_TUNING_METHODS,
    FIVE_SEEDS,
    MORE_SEEDS,
    SEEDS,
    fine_tuning,
)

KIND = "fine-tuning"
ANGLES = (30, 45)  # degrees
PRECISIONS = ("fp32", "int8")
PRIMARY = "mnist-rot30"  # of the primary comparison, in fp32
CONTROLS = ("tail-only-1", "tail-only-2")


def runs() -> list[Run]:
    """Five epochs, three seeds; to `PRIMARY` five, in fp32 the controls too."""
    found = []
    for precision in PRECISIONS:
        found += tuned("mnist", SEEDS, precision)
        found += tuned("fashion-mnist", SEEDS, precision)
        found += _to_primary(MORE_SEEDS, precision, FINE_TUNING_METHODS)
    return found + _to_primary(FIVE_SEEDS, "fp32", CONTROLS)


def tuned(data: str, seeds: Iterable[int], precision: str) -> list[Run]:
    """Four methods to every angle."""
    return fine_tuning(data, angles=ANGLES, seeds=seeds, epochs=5, before=20, precision=precision)


def _to_primary(seeds: Iterable[int], precision: str, methods: Iterable[str]) -> list[Run]:
    data, _, angle = PRIMARY.partition("-rot")
    angles = [int(angle)]
    return fine_tuning(
        data,
        angles=angles,
        seeds=seeds,
        epochs=5,
        before=20,
        precision=precision,
        methods=methods,
    )
