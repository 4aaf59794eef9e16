"""Small networks and their batches, for tests of a step, and what compares weights."""

import torch
from torch import nn

from ezo import perturb
from tests import sweeps

F = nn.functional
LR, EPS = 1e-2, 1e-3


def mlp(dtype=torch.float32, dropout=0.0):
    """7-11-13-5, weights set without any random generator."""
    model = nn.Sequential(
        nn.Linear(7, 11), nn.Tanh(), nn.Dropout(dropout), nn.Linear(11, 13), nn.Tanh(),
        nn.Linear(13, 5),
    )  # fmt: skip
    return set_weights(model).to(dtype)


def set_weights(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel()) * 1.7 + i).view(p.shape) * 0.4)
    return model


def normed():
    """With batch norm in the ZO part and in the BP part; the latter two are one layer each."""
    return set_weights(nn.Sequential(
        nn.Linear(7, 11), nn.BatchNorm1d(11), nn.Tanh(), nn.Linear(11, 13), nn.BatchNorm1d(13),
        nn.Tanh(), nn.Linear(13, 5),
    ))  # fmt: skip


def batch(step=0, n=6, dtype=torch.float32):
    x = torch.cos(torch.arange(n * 7) * (0.9 + 0.1 * step)).view(n, 7).to(dtype)
    return x, torch.arange(n) % 5


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def train(model, optimizer, steps, first=0, dtype=torch.float32):
    losses = []
    for step in range(first, first + steps):
        x, y = batch(step, dtype=dtype)
        losses.append(optimizer.step(lambda x=x, y=y: cross_entropy(model, x, y)))
    return losses


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert torch.equal(x, y), f"number {i} differs by {(x - y).abs().max()}"


def assert_other(a, b):
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert not torch.equal(x, y), f"number {i} is unchanged"


def on_grid(model):
    """Snap the weights, as a first step would, so that undoing one gives every bit back."""
    with torch.no_grad():
        for p in model.parameters():
            grid = perturb.GRID[p.dtype]
            p.copy_((p.double() / grid).round() * grid)
    return model


def noise_like(zo, seed, step, stream=0, kind="gaussian"):
    z = [torch.empty_like(p, memory_format=torch.contiguous_format).detach() for p in zo]
    sweeps.fill_(z, seed=seed, step=step, stream=stream, noise=kind, reference=True)
    return z


SCHEDULERS = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=[g["lr"] for g in o.param_groups], total_steps=6, cycle_momentum=False
    ),
}


def move(zo, values):
    with torch.no_grad():
        for p, value in zip(zo, values, strict=True):
            p.copy_(value)
