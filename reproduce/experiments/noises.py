"""LeNet-5 on MNIST by noise that is cheaper to draw than Gaussian."""

from dataclasses import replace

from ezo.train import Run
from reproduce.experiments._runs import SEEDS, training

KIND = "noises"
METHODS = ("full-zo", "elastic-2")
NOISES = ("rademacher-1", "gaussian-16")  # the cheapest, and the cheapest that is nearly Gaussian


def runs() -> list[Run]:
    """Twenty epochs, three seeds, in fp32, with the values that were tuned for Gaussian noise."""
    return [
        replace(run, hyper=replace(run.hyper, noise=noise))
        for noise in NOISES
        for run in training("lenet5", "mnist", METHODS, seeds=SEEDS, epochs=20)
    ]
