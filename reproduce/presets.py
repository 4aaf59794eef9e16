"""What is run: a preset is a list of training runs and of memory measurements."""

from collections.abc import Callable
from dataclasses import dataclass

from ezo.train import Run

ACCURACY_METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp")


@dataclass(frozen=True)
class Preset:
    """One size of the reproduction.

    Attributes:
        about: what it runs and how long that takes.
        runs: makes the training runs.
        memory_models: models whose peak bytes are measured, method by method.
        full: long enough for verdicts; otherwise only indications.
    """

    about: str
    runs: Callable[[], list[Run]]
    memory_models: tuple[str, ...]
    full: bool


def _grid(model: str, data: str, methods: tuple[str, ...], seeds: int, epochs: int) -> list[Run]:
    return [
        Run(model, data, method, epochs=epochs, seed=seed)
        for seed in range(seeds)
        for method in methods
    ]


PRESETS = {
    "smoke": Preset(
        "Every part once, small: digits for one epoch. Under 90 seconds.",
        lambda: _grid("lenet5", "digits", ("full-zo", "elastic-1", "full-bp"), 1, epochs=1),
        ("lenet5",),
        full=False,
    ),
    "quick": Preset(
        "Digits on LeNet-5, 3 seeds; shapes on PointNet, 1 seed. No download; under 10 minutes on "
        "two cores.",
        lambda: (
            _grid("lenet5", "digits", ACCURACY_METHODS, 3, epochs=40)
            + _grid("pointnet", "shapes-256", ("full-zo", "elastic-1", "full-bp"), 1, epochs=1)
        ),
        ("lenet5", "pointnet"),
        full=False,
    ),
    "paper": Preset(
        "MNIST on LeNet-5, 20 epochs, 3 seeds.",
        lambda: _grid("lenet5", "mnist", ACCURACY_METHODS, 3, epochs=20),
        ("lenet5", "pointnet"),
        full=True,
    ),
}
