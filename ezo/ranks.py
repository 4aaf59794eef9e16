"""One run on several processes: ranks that draw the same noise and exchange scalars.

Every rank holds the whole model and draws the same noise from the run's seed, so that what a step
does to the ZO weights follows from its losses alone. With R ranks and Q queries of two points, a
step exchanges

    losses       each rank's 2 Q numbers of 8 bytes; split by query, 2 Q / R of them; and in 4 bytes
                 how many examples they are of, which must be as many on each
    shifts       integers, split by example: a byte a layer and pass, the bits of its accumulators,
                 of which the largest of all ranks counts: the one thing that a batch shares
    gradients    of the BP part, summed
    checks       now and then a digest of the weights, and buffers of floats, of which the mean
                 over ranks stays

Exchanges are by ``torch.distributed``: gloo on a CPU, nccl on a GPU. Losses are added up in the
order of the ranks, so that all get the same bits. Batch norm normalises by its own rank's examples,
as in torch's DistributedDataParallel, and its statistics are each rank's until the next check.
"""

import contextlib
import datetime
import functools
import hashlib
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ezo import check
from ezo.step import Visit

if torch.distributed.is_available():
    # Its functions take the default group of the moment of their import as a default, and torch's
    # optimizers import it when the first is made. A group that they hold outlives
    # destroy_process_group(), and its threads may abort the process at its end. Where ezo is
    # imported first, there is none yet.
    import torch.distributed.nn.functional

SPLITS = ("examples", "queries")
COUNT_BYTES = 4  # of a number of examples


class LostRank(ConnectionError):
    """Another rank did not answer; this one can't go on."""


@dataclass(frozen=True)
class Ranks:
    """How the ranks of `torch.distributed` train one model together.

    Attributes:
        split: ``examples``: each rank's closure is of its share of the batch, all shares of one
            size. That is seen where the loss is each example's or an integer one; a scalar tells no
            number of examples, and the mean over ranks weighs all shares alike. ``queries``: each
            rank's closure is of the whole batch, and it runs every R-th of a step's queries.
        group: a process group; None for the default one.
        check_steps: steps from one check of the weights to the next; the first step is checked too.
        timeout_seconds: how long an exchange may take; then a rank is lost.
    """

    split: str = "examples"
    group: Any = None
    check_steps: int = 1000
    timeout_seconds: float = 120.0

    def __post_init__(self) -> None:
        check.one_of("split", self.split, SPLITS)
        check.integer("check_steps", self.check_steps, 1)
        check.expect(
            "timeout_seconds",
            self.timeout_seconds,
            check.finite(self.timeout_seconds) and self.timeout_seconds > 0,
            "a finite number above 0",
        )


@dataclass
class Exchange:
    """The exchanges of one optimiser, by a `Ranks`.

    Attributes:
        sent: bytes of payload that this rank has sent, by kind; an all-reduce counts as a ring's,
            2 (R - 1) / R of its size.
    """

    ranks: Ranks
    sent: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        distributed = torch.distributed
        if not distributed.is_available() or not distributed.is_initialized():
            raise ValueError(
                "expected torch.distributed to be initialised for ranks, got none; call "
                "torch.distributed.init_process_group() first, under torchrun"
            )
        group = self.ranks.group
        self.size: int = distributed.get_world_size(group)
        self.rank: int = distributed.get_rank(group)
        nccl = distributed.get_backend(group) == "nccl"
        self._device = torch.device("cuda") if nccl else torch.device("cpu")

    @property
    def by_example(self) -> bool:
        return self.ranks.split == "examples"

    def share(self, batch_size: int) -> slice:
        """This rank's examples of a batch.

        Raises:
            ValueError: the ranks do not divide it.
        """
        if not self.by_example:
            return slice(None)
        size, rest = divmod(batch_size, self.size)
        if rest:
            raise ValueError(
                f"expected a batch size that {self.size} ranks divide, got {batch_size}; give "
                f"{self.size * max(size, 1)}"
            )
        return slice(self.rank * size, (self.rank + 1) * size)

    def told(self, steps: int, weights: int) -> tuple[float, str]:
        """The bytes of a step but for checks, and in words, beside those of float32 gradients."""
        sent = {kind: n / steps for kind, n in self.sent.items() if kind != "checks"}
        theirs = 2 * (self.size - 1) * 4 * weights / self.size
        of = ", ".join(f"{kind} {n:,.0f}" for kind, n in sent.items())
        note = f"a step and rank: {of}; DistributedDataParallel's gradients: {theirs:,.0f}"
        return sum(sent.values()), note

    def mine(self, visits: Sequence[Visit]) -> list[Visit]:
        """Those of a step's passes that this rank makes.

        Raises:
            ValueError: split by query, there are not as many for each rank.
        """
        if self.by_example:
            return list(visits)
        queries = len({visit.query for visit in visits if visit.point})
        if not queries or queries % self.size:
            raise ValueError(
                f"expected as many queries for each of {self.size} ranks, got {queries}; give "
                f"queries={-(-max(queries, 1) // self.size) * self.size}, or split='examples'"
            )
        return [visit for visit in visits if visit.query % self.size == self.rank]

    def together(
        self, visits: Sequence[Visit], losses: Sequence[float] | Sequence[int], examples: int
    ) -> list[tuple[Visit, Any]]:
        """Every pass of a step with its loss: floats as the mean over ranks, integers as the sum.

        Split by query, each rank made passes of its own, and theta's is the last query's.

        Args:
            examples: how many each loss is of; 0 where it does not tell.

        Raises:
            ValueError: the ranks' are of different numbers of examples.
        """
        if self.by_example:
            ranks = zip(*self._losses(losses, examples), strict=True)
            every = [functools.reduce(operator.add, of) for of in ranks]  # so on every Python
            if isinstance(losses[0], float):
                every = [x / self.size for x in every]
            return list(zip(visits, every, strict=True))
        own = zip(visits, losses, strict=True)
        around = sorted((visit, loss) for visit, loss in own if visit.point)  # as on other ranks
        theta = [loss for visit, loss in zip(visits, losses, strict=True) if not visit.point]
        kind = type(losses[0])
        # the last rank may have been at theta; that all send as many numbers, the others send 0
        numbers = [loss for _, loss in around] + [theta[0] if theta else kind(0), kind(len(theta))]
        all_ = self._losses(numbers, examples)
        found = [
            (visit._replace(query=visit.query - self.rank + rank), loss)
            for rank, of in enumerate(all_)
            for (visit, _), loss in zip(around, of[:-2], strict=True)
        ]
        at_theta = [(Visit(0, 0, False), of[-2]) for of in all_ if of[-1]]
        return [*at_theta, *found]

    def _losses(self, numbers: Sequence[float] | Sequence[int], examples: int) -> list[list[Any]]:
        """Each rank's, once it is seen that all are of as many examples."""
        own = _of_64_bits(numbers)
        message = torch.cat([own.view(torch.uint8), _bytes_of(examples)])
        all_ = self._gathered(message, "losses")
        counts = [int(of[-COUNT_BYTES:].view(torch.int32)) for of in all_]
        if len({*counts}) > 1:
            shares = "shares of one size; a DataLoader with drop_last=True has batches that divide"
            raise ValueError(
                f"expected losses of as many examples on each of {self.size} ranks, got "
                f"{', '.join(str(n) if n else 'a scalar' for n in counts)}; give "
                f"{shares if self.by_example else 'all ranks the whole batch'}"
            )
        return [of[:-COUNT_BYTES].view(own.dtype).tolist() for of in all_]

    def gathered(self, numbers: Sequence[float] | Sequence[int], kind: str) -> list[list[Any]]:
        """Each rank's numbers, floats or integers of 64 bits, as many on each."""
        return [of.tolist() for of in self._gathered(_of_64_bits(numbers), kind)]

    def _gathered(self, own: Tensor, kind: str) -> list[Tensor]:
        """Each rank's tensor, of one size and type."""
        own = own.to(self._device)
        all_ = [torch.empty_like(own) for _ in range(self.size)]
        self._run(kind, torch.distributed.all_gather, all_, own)
        self._count(kind, own.nbytes * (self.size - 1))
        return [of.cpu() for of in all_]

    def largest(self, bits: int) -> int:
        """The largest of all ranks' numbers, each below 256."""
        own = torch.tensor([bits], dtype=torch.uint8, device=self._device)
        operation = torch.distributed.ReduceOp.MAX
        self._run("shifts", torch.distributed.all_reduce, own, operation)
        self._count("shifts", self.size - 1)
        return int(own)

    def summed(self, tensors: Iterable[Tensor], kind: str) -> None:
        """Each tensor becomes its sum over the ranks, in place; one exchange for each type."""
        by_type: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
        for t in tensors:
            by_type.setdefault((t.dtype, t.device), []).append(t)
        for (_, device), of in by_type.items():
            flat = torch.cat([t.reshape(-1) for t in of]).to(self._device)
            self._run(kind, torch.distributed.all_reduce, flat)
            self._count(kind, 2 * (self.size - 1) * flat.nbytes // self.size)
            for t, part in zip(of, flat.to(device).split([t.numel() for t in of]), strict=True):
                t.copy_(part.view(t.shape))

    def expect_same(self, tensors: Iterable[Tensor], step: int) -> None:
        """Raises:
        RuntimeError: the ranks' tensors are not the same, bit by bit.
        """
        sha = hashlib.sha256()
        for t in tensors:
            sha.update(t.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        own = int.from_bytes(sha.digest()[:8], "little", signed=True)
        found = [of[0] for of in self.gathered([own], "checks")]
        if differing := [rank for rank, of in enumerate(found) if of != found[0]]:
            raise RuntimeError(
                f"expected the same weights on all {self.size} ranks at step {step}, got others on "
                f"rank {', '.join(map(str, differing))} than on rank 0; begin with the same "
                "weights, arguments and seed everywhere, and let the step alone move them"
            )

    def _count(self, kind: str, sent: int) -> None:
        self.sent[kind] = self.sent.get(kind, 0) + sent

    def _run(self, kind: str, operation: Any, *arguments: Any) -> None:
        limit = datetime.timedelta(seconds=self.ranks.timeout_seconds)
        try:
            work = operation(*arguments, group=self.ranks.group, async_op=True)
            if not work.wait(limit):
                raise RuntimeError("no answer")
        except RuntimeError as error:
            told = str(error).strip().splitlines()[0][:200]
            raise LostRank(
                f"expected all {self.size} ranks to exchange {kind}, got no answer on rank "
                f"{self.rank} within {self.ranks.timeout_seconds:g} s ({told}): a rank is lost; "
                "start all ranks again, from the last checkpoint where there is one"
            ) from error


def _of_64_bits(numbers: Sequence[float] | Sequence[int]) -> Tensor:
    whole = bool(numbers) and isinstance(numbers[0], int)
    return torch.tensor(numbers, dtype=torch.int64 if whole else torch.float64)


def _bytes_of(count: int) -> Tensor:
    return torch.tensor([count], dtype=torch.int32).view(torch.uint8)


def exchange_of(ranks: bool | Ranks) -> Exchange | None:
    """What an optimiser's argument ``ranks`` asks for."""
    if ranks is False or ranks is None:
        return None
    if ranks is True:
        ranks = Ranks()
    if not isinstance(ranks, Ranks):
        raise ValueError(
            f"expected ranks to be True, False or Ranks, got {ranks!r}; give for example "
            "Ranks(split='queries')"
        )
    return Exchange(ranks)


@contextlib.contextmanager
def ranks_of(split: str | None, device: str) -> Iterator[Ranks | None]:
    """Within, the processes that torchrun started are ranks; None for no split.

    Raises:
        ValueError: torchrun did not start this one.
    """
    if split is None:
        yield None
        return
    if "RANK" not in os.environ:
        raise ValueError(
            "expected processes that torchrun started for --ranks, got one by itself; give "
            "torchrun --nproc-per-node 2 -m ezo.cli train ..."
        )
    ranks = Ranks(split)
    limit = datetime.timedelta(seconds=ranks.timeout_seconds)
    backend = "nccl" if torch.device(device).type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=limit)
    try:
        yield ranks
    finally:
        torch.distributed.destroy_process_group()
