"""What the noise of a run moves: tensors by name, with their places in the stream."""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ezo.elastic import Elastic
from ezo.int8.perturb import SparseNoise
from ezo.journal import records
from ezo.journal.weights import entries
from ezo.perturb import GRID

EXACT_BELOW = 4.0  # magnitudes from which sweeps over float32 round (`ezo.perturb`)


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

    def warn_where_rounded(self) -> None:
        """Where a replay may differ in the last bit."""
        large = [p for p in self.tensors if _real(p) in GRID and p.abs().max() >= EXACT_BELOW]
        if large:
            warnings.warn(
                f"{len(large)} ZO weights reach {EXACT_BELOW:g}, from where undoing a perturbation "
                "rounds: a replay of this journal may differ in their last bits",
                stacklevel=2,
            )


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
