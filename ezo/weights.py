"""The ZO weights of a step: how they are perturbed, and what they learn."""

import contextlib
import operator
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ezo import kernels, perturb
from ezo import passes as _passes
from ezo.elastic import runs
from ezo.perturb import COARSE
from ezo.spsa import slope
from ezo.step import Difference, Losses
from ezo.unmoved import Readers, Unmoved


class Update(NamedTuple):
    """A query's update of the ZO weights: theta <- theta - rate z - decay theta.

    Attributes:
        seed, step, query: where z stands in the noise stream.
        groups: (eps, rate, decay) of each ZO group; rate is lr g / queries.
    """

    seed: int
    step: Any
    query: int
    groups: tuple[tuple[Any, Any, Any], ...]

    def where(self, learns: Tensor) -> "Update":
        """The same where a flag on a device is true, else one that leaves all as it is."""

        def number(x: Any) -> Tensor:
            return torch.where(
                learns, x, torch.zeros((), dtype=torch.float64, device=learns.device)
            )

        return self._replace(groups=tuple((e, number(r), number(d)) for e, r, d in self.groups))

    def read(self) -> "Update":
        """With numbers in place of tensors."""
        groups = tuple((float(e), float(r), float(d)) for e, r, d in self.groups)
        return self._replace(step=int(self.step), groups=groups)


class Layout:
    """The ZO weights as they lie: which of them move, in runs, each with its sweeper.

    It serves step after step, as long as it ``fits``.

    Attributes:
        parameters: all that move.
        sweepers, coarse: each with its group; those of 16 bits apart.
        numbered: of 16 bits, each with its group and its tensor number in the noise stream.
    """

    def __init__(
        self, groups: list[dict[str, Any]], sweeper: Callable[..., perturb.Sweeper]
    ) -> None:
        self._state = _state(groups)
        self.parameters: list[nn.Parameter] = []  # but those that are frozen now
        self.sweepers: list[tuple[int, perturb.Sweeper]] = []
        self.coarse: list[tuple[int, perturb.Sweeper]] = []
        self.numbered: list[tuple[int, nn.Parameter, int]] = []
        first = 0  # a group's first tensor, in the noise stream
        for i, group in enumerate(groups):
            own = group["params"]
            free = [p.requires_grad for p in own]
            coarse = [p.dtype in COARSE for p in own]
            for to, kind in ((self.sweepers, False), (self.coarse, True)):
                if kind not in coarse:
                    continue
                moves = [is_free and c is kind for is_free, c in zip(free, coarse, strict=True)]
                for number, run in runs(own, moves, first):
                    to.append((i, sweeper(run, first_tensor=number)))
                    self.parameters += run
                    if kind:
                        self.numbered += [(i, p, t) for t, p in enumerate(run, number)]
            first += len(own)

    def fits(self, groups: list[dict[str, Any]]) -> bool:
        """Whether the weights lie and move as they did, and the same backends serve."""
        return _state(groups) == self._state


_ATTRIBUTES = operator.attrgetter("requires_grad", "dtype", "shape")


def _state(groups: list[dict[str, Any]]) -> list[Any]:
    found: list[Any] = [kernels.choice()]
    for group in groups:
        own = group["params"]
        found += ([*map(of, own)] for of in (id, _ATTRIBUTES, Tensor.data_ptr, Tensor.stride))
    return found


class WeightPerturbation:
    """The perturbation of the ZO weights, e = eps z, of a `ezo.step.Perturbation`'s face.

    Those of 16 bits stay where they are (`ezo.unmoved`); the others move.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        place: tuple[int, Any],
        queries: int,
        layout: Layout,
        padding: dict[Tensor, int],
        readers: Readers,
        noise: str,
    ) -> None:
        self.groups, self._place, self._queries = groups, place, queries
        self.parameters = layout.parameters
        self._sweepers, self._coarse = layout.sweepers, layout.coarse
        rows = [p[padding[p]] for p in self.parameters if p in padding] if padding else []
        self._held = [(row, row.clone()) for row in rows]
        unmoved = [(p, t, number_of(groups[i]["eps"])) for i, p, t in layout.numbered]
        self._unmoved = Unmoved(readers, unmoved, noise, padding) if unmoved else None

    def attached(self, passes: _passes.Passes) -> contextlib.AbstractContextManager[None]:
        return self._unmoved.attached() if self._unmoved else contextlib.nullcontext()

    def _hold(self) -> None:
        for row, value in self._held:
            row.copy_(value)

    def move(self, query: int, start: int, end: int) -> None:
        place, times = (*self._place, query), float(end - start)
        for i, sweeper in self._sweepers:
            sweeper.shift(place, number_of(self.groups[i]["eps"]), times)
        if self._unmoved:
            self._unmoved.move(place, float(end))
        self._hold()

    def learn(self, query: int, losses: Losses, difference: Difference) -> Update:
        change = difference({point: loss.mean for point, loss in losses.items()})
        rates = []
        for group in self.groups:
            lr, eps = number_of(group["lr"]), number_of(group["eps"])
            rate = lr * slope(change, eps, group["clip"]) / self._queries
            # the decay goes with the update that is applied first, the last query's
            decay = lr * group["weight_decay"] if query == self._queries - 1 else 0.0
            rates.append((eps, number_of(rate), number_of(decay)))
        return Update(*self._place, query, tuple(rates))

    def apply(self, update: Update, start: int) -> None:
        place = update[:3]
        for i, sweeper in self._sweepers:
            eps, rate, decay = update.groups[i]
            if start == 1:
                sweeper.shift(place, eps, -1.0)
            sweeper.update(place, eps, rate, decay, start == -1)
        if self._unmoved:
            self._unmoved.move(place, 0.0)
        for i, sweeper in self._coarse:
            _, rate, decay = update.groups[i]
            sweeper.learn(place, rate, decay)
        self._hold()


def attached(
    perturbations: Sequence[Any], passes: _passes.Passes
) -> contextlib.AbstractContextManager[Any]:
    """Within, each perturbation sees the passes of a step."""
    if len(perturbations) == 1:
        found: contextlib.AbstractContextManager[Any] = perturbations[0].attached(passes)
        return found
    return _all_attached(perturbations, passes)


@contextlib.contextmanager
def _all_attached(perturbations: Sequence[Any], passes: _passes.Passes) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for perturbation in perturbations:
            stack.enter_context(perturbation.attached(passes))
        yield


def number_of(x: Any) -> Any:
    """A float, or a number that stays on its device."""
    return x if isinstance(x, Tensor) and not _passes.here(x) else float(x)


def warn_of_drift(zo: list[nn.Parameter]) -> None:
    """Of weights whose type has neither a grid nor rounding at random."""
    exact = (*perturb.GRID, *COARSE)
    if drifting := {str(p.dtype) for p in zo if p.dtype not in exact and not _fine(p)}:
        warnings.warn(
            f"ZO weights of {', '.join(sorted(drifting))}: rounding moves them at every step; "
            "keep such weights in complex64, or expect some drift",
            stacklevel=3,
        )


def padding_rows(model: nn.Module) -> dict[Tensor, int]:
    """Rows that BP never trains: of embeddings with ``padding_idx``, unless tied to others."""
    owners = Counter(id(p) for m in model.modules() for p in m.parameters(recurse=False))
    kinds = (nn.Embedding, nn.EmbeddingBag)
    of = [m for m in model.modules() if isinstance(m, kinds) and owners[id(m.weight)] == 1]
    return {m.weight: m.padding_idx for m in of if m.padding_idx is not None}


def _fine(p: Tensor) -> bool:
    return p.is_complex() and p.dtype.to_real() in perturb.GRID
