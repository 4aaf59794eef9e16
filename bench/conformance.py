"""Do the steps that we measure do what their equation says? `ezo.conformance`, ours and peers'."""

from dataclasses import dataclass

import torch
from torch import nn

from bench import peers
from bench.workload import row_of
from ezo import ElasticZO, conformance
from ezo.rows import Row

OURS = "full-zo"
METHODS = (OURS, *(of for of in peers.names() if hasattr(peers.find(of), "make_step")))
DRIFT_STEPS = 200
SMOKE = {"drift_steps": 5}


@dataclass(frozen=True)
class Subject:
    """A ZO step: ours, or a peer's that has ``make_step``."""

    method: str

    @property
    def name(self) -> str:
        return f"conformance-{self.method}"


def cases(model: str, method: str, batch_size: int) -> list[Subject]:
    """A ZO step. It needs neither models nor batches: the suite has its own."""
    if method not in METHODS:
        raise ValueError(f"expected methods of {', '.join(METHODS)}, got {method}; leave it out")
    return [Subject(method)]


def measure(case: Subject, drift_steps: int = DRIFT_STEPS) -> list[Row]:
    """A row for each check: what it measured, and in the note its verdict, bound and meaning."""
    make_step = _ours if case.method == OURS else peers.find(case.method).make_step
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for peers that draw from torch's global generator
            found = conformance.run(make_step, drift_steps=drift_steps)
    except ModuleNotFoundError as error:
        return [row_of(case, "conformance", None, "1", f"not installed: {error.name}")]
    return [
        row_of(case, f"conformance_{f.check}", f.measured, "1", str(f).removeprefix(f"{f.check}: "))
        for f in found
    ]


def _ours(model: nn.Module, lr: float, eps: float, seed: int) -> conformance.Step:
    return ElasticZO(model, bp=0, lr=lr, eps=eps, seed=seed).step
