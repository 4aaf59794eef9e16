"""LeNet-5 from full BP's weights on MNIST and Fashion-MNIST to the same images rotated."""

from collections.abc import Iterable

from ezo.train import Run
from reproduce.experiments._runs import MORE_SEEDS, SEEDS, fine_tuning

KIND = "fine-tuning"
ANGLES = (30, 45)  # degrees
PRECISIONS = ("fp32", "int8")
UNDECIDED = "mnist-rot30"  # of which three seeds leave undecided how near full BP is


def runs() -> list[Run]:
    """Five epochs, three seeds; of full BP on `UNDECIDED` five."""
    found = []
    for precision in PRECISIONS:
        found += tuned("mnist", SEEDS, precision)
        found += tuned("fashion-mnist", SEEDS, precision)
        more = tuned("mnist", MORE_SEEDS, precision)
        found += [run for run in more if (run.data, run.method) == (UNDECIDED, "full-bp")]
    return found


def tuned(data: str, seeds: Iterable[int], precision: str) -> list[Run]:
    """Four methods to every angle."""
    return fine_tuning(data, angles=ANGLES, seeds=seeds, epochs=5, before=20, precision=precision)
