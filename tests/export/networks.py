"""Small networks and data for the exporter's tests."""

import torch
from torch import nn

from ezo.int8 import ElasticZO, Int8Tensor, Loss, SparseNoise, from_float

MODELS = {
    "mlp": lambda: nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 10)
    ),
    "odd": lambda: nn.Sequential(
        nn.Linear(13, 7, bias=False), nn.ReLU(), nn.Linear(7, 5), nn.Linear(5, 3, bias=False)
    ),
    "cnn": lambda: nn.Sequential(
        *(nn.Conv2d(2, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 5, 3), nn.MaxPool2d(3), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(5, 12), nn.ReLU(), nn.Linear(12, 4)),
    ),
    "plain": lambda: nn.Sequential(
        *(nn.MaxPool2d(2), nn.Conv2d(2, 3, 2), nn.Conv2d(3, 7, 4, padding=3, bias=False)),
        *(nn.ReLU(), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(7, 4)),
    ),
}
SHAPES = {"mlp": (64,), "odd": (13,), "cnn": (2, 11, 10), "plain": (2, 11, 9)}
CLASSES = {"mlp": 10, "odd": 3, "cnn": 4, "plain": 4}
EXPONENT = -5


def make(name, bp, *, seed=7, r_max=15, p_zero=0.0, fraction=True, **options):
    """(network, optimiser) of a small model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = from_float(MODELS[name](), headroom=r_max)
    optimizer = ElasticZO(
        network, bp, noise=SparseNoise(r_max, p_zero), fraction=fraction, seed=seed, **options
    )
    return network, optimizer


def data(name, n=24):
    """(x, y) of a small model: int8 numbers and labels."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randint(-127, 128, (n, *SHAPES[name]), generator=generator, dtype=torch.int8)
    x[n // 2 :] //= 9  # so that shifts change from batch to batch
    y = torch.randint(0, CLASSES[name], (n,), generator=generator)
    return Int8Tensor(x, EXPONENT), y


def train(network, optimizer, x, y, steps, batch, first=0):
    """Python's steps on the batches that the device takes; yields each step's loss."""
    for step in range(first, first + steps):
        chosen = [(step * batch + j) % len(y) for j in range(batch)]
        given, labels = Int8Tensor(x.m[chosen], x.e), y[chosen]
        yield optimizer.step(
            lambda given=given, labels=labels: Loss(network(given), labels)
        ).total()
