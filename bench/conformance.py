"""Do the steps that we measure do what their equation says? `ezo.conformance`, ours and peers'."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from bench import peers
from ezo import ElasticZO, conformance
from ezo.rows import Row, provenance

OURS = "full-zo"
DRIFT_STEPS = 200
SMOKE = {"drift_steps": 5}


@dataclass(frozen=True)
class Subject:
    """A ZO step: ours, or a peer's that has ``make_step``."""

    method: str

    @property
    def name(self) -> str:
        return f"conformance-{self.method}"


def cases(models: Iterable[str], methods: Iterable[str] | None, batch_size: int) -> list[Subject]:
    """Ours and every peer's ZO step. It needs neither models nor batches: the suite has its own."""
    able = [OURS, *(name for name in peers.names() if hasattr(peers.find(name), "make_step"))]
    wanted = able if methods is None else list(methods)
    if unable := [name for name in wanted if name not in able]:
        raise ValueError(f"expected methods of {', '.join(able)}, got {', '.join(unable)}")
    return [Subject(method) for method in wanted]


def measure(case: Subject, drift_steps: int = DRIFT_STEPS) -> list[Row]:
    """A row for each check: what it measured, and in the note its verdict, bound and meaning."""
    make_step = _ours if case.method == OURS else peers.find(case.method).make_step
    about: dict[str, Any] = {"case": case.name, "method": case.method, **provenance()}
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # for peers that draw from torch's global generator
            found = conformance.run(make_step, drift_steps=drift_steps)
    except ModuleNotFoundError as error:
        note = f"not installed: {error.name}"
        return [Row(metric="conformance", value=None, unit="1", note=note, **about)]
    return [
        Row(
            metric=f"conformance_{f.check}",
            value=f.measured,
            unit="1",
            note=str(f).removeprefix(f"{f.check}: "),
            **about,
        )
        for f in found
    ]


def _ours(model: nn.Module, lr: float, eps: float, seed: int) -> conformance.Step:
    return ElasticZO(model, bp=0, lr=lr, eps=eps, seed=seed).step
