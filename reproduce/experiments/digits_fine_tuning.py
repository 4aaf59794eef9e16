"""LeNet-5 from full BP's weights on digits to the same images rotated."""

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, fine_tuning

KIND = "fine-tuning"


def runs() -> list[Run]:
    """Turned by 30 degrees: ten epochs, three seeds, in fp32 and int8."""
    return [
        run
        for precision in ("fp32", "int8")
        for run in fine_tuning(
            "digits", angles=[30], seeds=SEEDS, epochs=10, before=40, precision=precision
        )
    ]
