"""What the noise of a run moves: tensors by name, with their places in the stream."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ezo.elastic import Elastic
from ezo.int8.perturb import SparseNoise
from ezo.journal import records
from ezo.journal.weights import entries
from ezo.perturb import GRID

LOOSE_FROM = 3.5  # magnitudes that noise may carry to 4, from where sweeps round (`ezo.perturb`)


@dataclass
class Setup:
    """The ZO weights of an optimiser, as its next steps move them.

    Attributes:
        tensors: those of the weights that noise moves, frozen ones too.
        told: what a replay needs of them, plain values.
        wide: whether floats are kept in 64 bits.
    """

    tensors: list[Tensor]
    told: dict[str, Any]
    wide: bool
    free: list[bool]

    def differs(self, optimizer: Elastic) -> bool:
        """Whether an optimiser now moves others than these."""
        drawn = optimizer.drawn()
        return drawn.free != self.free or len(drawn.tensors) != len(self.tensors)

    def pack(self) -> bytes:
        """The body of its record."""
        return records.text(self.told)

    def loose(self) -> dict[str, Tensor]:
        """The places of weights so large that sweeps may round them, int64, by tensor."""
        found = {}
        for name, p in zip(self.told["tensors"], self.tensors, strict=True):
            if _real(p) in GRID:
                at = (flat(p).abs() >= LOOSE_FROM).nonzero().view(-1)
                if len(at):
                    found[name] = at
        return found


def flat(p: Tensor) -> Tensor:
    """A tensor's numbers in row-major order, a complex one's real and imaginary parts."""
    return (torch.view_as_real(p.detach()) if p.is_complex() else p.detach()).reshape(-1)


def set_up(model: nn.Module, optimizer: Elastic) -> Setup:
    """What an optimiser moves now.

    Raises:
        ValueError: a replay would not give the same bits.
    """
    drawn = optimizer.drawn()
    names = {id(p): name for name, (p, _) in entries(model).items()}
    coarse = {str(p.dtype) for p in drawn.tensors if _real(p) not in (torch.int8, *GRID)}
    if coarse:
        raise ValueError(
            f"expected ZO weights of float32, float64 or int8 for a journal, got some of "
            f"{', '.join(sorted(coarse))}, which every step's rounding moves; keep them in float32"
        )
    if foreign := [p for p in drawn.tensors if id(p) not in names]:
        raise ValueError(
            f"expected the model that the optimiser trains, got one without {len(foreign)} of its "
            "weights; give that model"
        )
    noise = drawn.noise
    told = {
        "seed": optimizer._seed,
        "noise": [noise.r_max, noise.p_zero] if isinstance(noise, SparseNoise) else noise,
        "fraction": drawn.fraction,
        "tensors": [names[id(p)] for p in drawn.tensors],
        "groups": drawn.groups,
        "free": [int(free) for free in drawn.free],
        "held": {names[id(p)]: row for p, row in drawn.held.items() if id(p) in names},
    }
    wide = any(_real(p) == torch.float64 for p in drawn.tensors)
    return Setup(drawn.tensors, told, wide, drawn.free)


def _real(p: Tensor) -> torch.dtype:
    return p.dtype.to_real() if p.is_complex() else p.dtype
