"""Where the golden digests come from: ``python tests/golden/make.py`` prints them.

Each is the SHA-256 of weights and losses after a few steps with every hyperparameter given, so that
better defaults don't move them. ``golden.json`` holds what commit d2ba16e printed, before its step,
its kernels and its conversion were rebuilt, and of `nodes` what the commit that brought them did;
test_golden.py holds today's code to it. Inputs and
initial weights are integers over powers of two, and the floating-point loss is a sum without
rounding, so that the numbers are the same on every processor.
"""

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import ezo
from ezo import int8

STEPS = 5
CONV = nn.Sequential(
    nn.Conv2d(2, 5, 3, padding=1),
    nn.ReLU(),
    nn.MaxPool2d(2),
    nn.Conv2d(5, 6, 3, padding=0, bias=False),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(6 * 2 * 2, 16),
    nn.ReLU(),
    nn.Linear(16, 7),
)
MLP = nn.Sequential(nn.Linear(20, 33), nn.ReLU(), nn.Linear(33, 600, bias=False), nn.Linear(600, 5))
INPUTS = {"conv": (12, 2, 8, 8), "mlp": (9, 20)}


def whole(shape: tuple[int, ...], seed: int, bound: int) -> Tensor:
    """Integers within +-bound, as float32."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-bound, bound + 1, shape, generator=generator).float()


def network(name: str, bp: int | str, r_max: int) -> nn.Module:
    """An integer network whose weights don't depend on the processor."""
    model = {"conv": CONV, "mlp": MLP}[name]
    with torch.no_grad():
        for t, p in enumerate(model.parameters()):
            p.copy_(whole(tuple(p.shape), t, 100) / 1024)
    return int8.from_float(model, headroom=0 if bp == "all" else r_max)


def integers() -> Iterator[tuple[str, str]]:
    """(case, digest) of integer steps: methods, magnitudes, fractions, queries, BP gradients."""
    kinds = itertools.product((0, 1, 2), ("sign", "absolute"), (False, True))
    cases: list[dict[str, Any]] = [
        {"bp": bp, "magnitude": magnitude, "fraction": fraction}
        for bp, magnitude, fraction in kinds
    ]
    cases += [{"bp": "all", "fraction": fraction} for fraction in (False, True)]
    cases += [{"bp": 1, "bp_gradient": where} for where in ("minus", "mean", "unperturbed")]
    cases += [{"bp": bp, "queries": 3, "magnitude": "absolute"} for bp in (0, 1)]
    cases += [{"bp": 2, "zo": False, "mu": -2}, {"bp": 0, "seed": 2**63 + 5, "queries": 2}]
    yield from _integer_cases(itertools.product(INPUTS, cases))


def nodes() -> Iterator[tuple[str, str]]:
    """(case, digest) of integer steps with nodes; of the commit that brought them."""
    cases: list[dict[str, Any]] = [
        {"bp": bp, "magnitude": "absolute", "fraction": fraction, "nodes": int8.Nodes(rate=90_000)}
        for bp, fraction in itertools.product((0, 1), (False, True))
    ]
    cases += [{"bp": 1, "queries": 2, "nodes": int8.Nodes(rate=1_000_000, sigma=3, sparse=1)}]
    yield from _integer_cases(itertools.product(INPUTS, cases))


def _integer_cases(
    cases: Iterable[tuple[str, dict[str, Any]]],
) -> Iterator[tuple[str, str]]:
    for name, case in cases:
        settings = {"rate": 30_000, "mu": 2, "largest_difference": 700, "seed": 3, **case}
        noise = int8.SparseNoise(r_max=15, p_zero=0.25)
        model = network(name, settings["bp"], noise.r_max)
        x = int8.Int8Tensor(whole(INPUTS[name], 99, 127).to(torch.int8), -6)
        y = torch.arange(len(x.m)) % 5
        optimizer = int8.ElasticZO(model, noise=noise, **settings)
        sha = hashlib.sha256()
        for _ in range(STEPS):
            loss = optimizer.step(lambda: int8.Loss(model(x), y))  # noqa: B023 (called at once)
            sha.update(str(loss.total()).encode())
        for p in [*model.parameters(), *_fractions(optimizer)]:
            sha.update(p.detach().contiguous().view(torch.uint8).numpy().tobytes())
        told = ", ".join(f"{key} {value}" for key, value in case.items())
        yield f"int8 {name}: {told}", sha.hexdigest()


def _fractions(optimizer: Any) -> list[Tensor]:
    return [
        optimizer.state[p]["fraction"]
        for group in optimizer.param_groups
        for p in group["params"]
        if "fraction" in optimizer.state[p]
    ]


class Exact(nn.Module):
    """A loss of weights on a grid, without rounding: a sum of products with small integers."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        shapes = ((40, 30), (7,), (3, 5, 5), (1000,), (2, 2))
        self.weights = nn.ParameterList(
            (whole(shape, t, 1000) / 1024).to(dtype) for t, shape in enumerate(shapes)
        )
        self.factors = [whole(shape, 50 + t, 3) for t, shape in enumerate(shapes)]

    def forward(self) -> Tensor:
        first = self.weights[0].detach().double()
        slope = (first * 64).round().sum() % 5  # so that the last weights' gradient tells where
        parts = [(w.double() * c).sum() for w, c in zip(self.weights, self.factors, strict=True)]
        return (torch.stack(parts).sum() + slope * parts[-1]) / 64


def floats() -> Iterator[tuple[str, str]]:
    """(case, digest) of steps in float32 and float64."""
    cases: list[dict[str, Any]] = [
        {"bp": bp, "noise": noise}
        for bp, noise in itertools.product((0, "weights.3"), ("gaussian", "rademacher", "uniform"))
    ]
    last, wheres = "weights.4", ("plus", "minus", "last", "unperturbed")
    cases += [{"bp": last, "bp_gradient": where} for where in wheres]
    cases += [{"bp": 0, "queries": 3}, {"bp": last, "queries": 2}]
    cases += [{"bp": 0, "weight_decay": 0.1}, {"bp": 0, "clip": 0.5}, {"bp": 0, "seed": 2**63 + 5}]
    for dtype, case in itertools.product((torch.float32, torch.float64), cases):
        settings = {"lr": 2**-9, "eps": 2**-8, "seed": 3, **case}
        model = Exact(dtype)
        optimizer = ezo.ElasticZO(model, **settings)
        sha = hashlib.sha256()
        for _ in range(STEPS):
            sha.update(f"{optimizer.step(model).item()!r}".encode())
        for p in model.parameters():
            sha.update(p.detach().numpy().tobytes())
        told = ", ".join(f"{key} {value}" for key, value in case.items())
        yield f"{str(dtype)[6:]}: {told}", sha.hexdigest()


def digests() -> dict[str, str]:
    """Every case's digest."""
    return dict([*integers(), *nodes(), *floats()])


if __name__ == "__main__":
    print(json.dumps(digests(), indent=1))
