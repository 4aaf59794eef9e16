"""What ranks do in tests: ``python tests/ranks_work.py FOLDER`` writes what each of them found.

One process imports torch, and forks the ranks of each scenario.
"""

import datetime
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))  # of this checkout

import ezo
from ezo import Ranks, int8, train
from ezo.ranks import LostRank
from ezo.train import Run

STEPS, BATCH = 200, 16
Y = torch.arange(BATCH) % 4
RUN = {
    "float": Run("lenet5", "digits", "elastic-1", epochs=1, train_examples=256),
    "int8": Run("lenet5", "digits", "elastic-2", "int8", epochs=1, train_examples=256),
}


def batch(step: int) -> torch.Tensor:
    x = torch.cos(torch.arange(BATCH * 64) * (0.9 + 0.01 * (step % 7))).view(BATCH, 1, 8, 8)
    return x + torch.nn.functional.one_hot(Y * 9, 64).view(BATCH, 1, 8, 8)


def float_model(norm: bool = False) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 24), *([nn.BatchNorm1d(24)] if norm else []), nn.ReLU(),
        nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4),
    )  # fmt: skip


def integer_model() -> Any:
    torch.manual_seed(0)
    return int8.from_float(
        nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 4),
        ),
        headroom=15,
    )  # fmt: skip


def share(x: Any, rank: int, size: int) -> Any:
    n = BATCH // size
    return x[rank * n : (rank + 1) * n]


def trained(
    kind: str, rank: int = 0, size: int = 1, steps: int = STEPS, norm: bool = False, **how: Any
) -> dict[str, Any]:
    """A run's weights, losses and bytes; of a rank's share of each batch, or of all of it."""
    ranks = how.get("ranks", False)
    if not (ranks and ranks.split == "examples"):
        rank, size = 0, 1
    losses: list[float] = []
    if kind == "float":
        model = float_model(norm)
        optimizer: Any = ezo.ElasticZO(
            model, lr=1e-2, eps=1e-3, clip=5.0, **{"bp_gradient": "mean", **how}
        )
    else:
        model = integer_model()
        more = {"magnitude": "absolute", "fraction": True, "rate": 60_000, "mu": 2}
        optimizer = int8.ElasticZO(model, **{**more, **how})
    for k in range(steps):
        x = batch(k)
        exponent = int8.quantize(x).e

        def closure(x: Any = x, exponent: int = exponent) -> Any:
            own, y = share(x, rank, size), share(Y, rank, size)
            if kind == "float":
                return nn.functional.cross_entropy(model(own), y)
            return int8.Loss(model(int8.quantize_at(own, exponent)), y)

        loss = optimizer.step(closure)
        losses.append(float(loss) if kind == "float" else loss.mean())
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    sent = dict(optimizer.exchange.sent) if ranks else {}
    return {"weights": weights, "losses": losses, "sent": sent}


HOW: dict[str, dict[str, Any]] = {
    "float full-zo": {"kind": "float", "bp": 0},
    "float elastic-1": {"kind": "float", "bp": 1, "steps": 50},
    "float all": {"kind": "float", "bp": "all", "steps": 20},
    "float queries": {"kind": "float", "bp": 1, "queries": 4, "bp_gradient": "plus", "steps": 10},
    "float queries mean": {"kind": "float", "bp": 1, "queries": 4, "steps": 10},
    "int8 full-zo": {"kind": "int8", "bp": 0, "steps": 20},
    "int8 sign": {"kind": "int8", "bp": 0, "magnitude": "sign", "rate": 4096, "steps": 20},
    "int8 elastic-2": {"kind": "int8", "bp": 2, "steps": 20},
    "int8 all": {"kind": "int8", "bp": "all", "steps": 10},
    "int8 queries": {"kind": "int8", "bp": 1, "queries": 4, "steps": 10},
}


def split_of(name: str) -> str:
    return "queries" if "queries" in name else "examples"


def scenarios(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """All that ranks do while none is lost."""
    found: dict[str, Any] = {}
    for name, how in HOW.items():
        if size == 2 or name in ("float full-zo", "int8 elastic-2", "float queries"):
            ranks = Ranks(split_of(name), check_steps=50)
            found[name] = trained(rank=rank, size=size, ranks=ranks, **how)
    if size != 2:
        return found
    ranks = Ranks(check_steps=5)
    found["norm"] = trained("float", rank, size, 10, norm=True, bp=0, ranks=ranks)
    model = float_model()
    if rank == 1:
        model[1].bias.data[0] += 1
    found["other weights"] = told(lambda: ezo.ElasticZO(model, 0, ranks=True).step(lambda: 1.0))
    wrapped = nn.parallel.DistributedDataParallel(float_model())
    found["wrapped"] = told(lambda: ezo.ElasticZO(wrapped, 0, ranks=True))
    found["nodes"] = told(lambda: ezo.ElasticZO(float_model(), 1, nodes=True, ranks=True))
    found["mean"] = told(lambda: int8.ElasticZO(integer_model(), 1, bp_gradient="mean", ranks=True))
    one = Ranks("queries")
    found["one query"] = told(lambda: ezo.ElasticZO(float_model(), 0, ranks=one).step(lambda: 1.0))
    found |= unequal(rank)
    for kind, run in RUN.items():
        journal = folder / f"{kind}.ezoj"
        rows = list(train.train(run, ranks=Ranks(), out=folder / kind, journal=journal))
        found[f"train {kind}"] = [(r.metric, r.step, r.value, r.note) for r in rows]
    return found


def unequal(rank: int) -> dict[str, Any]:
    """Shares of 9 and 7 examples, whose losses tell how many; and one rank whose loss does not."""
    own = slice(None, 9) if rank == 0 else slice(9, None)
    model, x = float_model(), batch(0)
    before = {name: t.clone() for name, t in model.state_dict().items()}

    def step(share: slice, reduction: str = "none", **how: Any) -> str:
        optimizer = ezo.ElasticZO(model, how.pop("bp", 1), **{"ranks": True, **how})
        loss = nn.CrossEntropyLoss(reduction=reduction)
        return told(lambda: optimizer.step(lambda: loss(model(x[share]), Y[share])))

    found: dict[str, Any] = {"unequal": step(own)}
    queries = {"ranks": Ranks("queries"), "queries": 2, "bp_gradient": "plus"}
    found["unequal queries"] = step(own, **queries)
    halves = slice(8 * rank, 8 * rank + 8)
    found["one scalar"] = step(halves, "mean" if rank else "none", bp=0)
    after = model.state_dict()
    found["unmoved"] = max(float((after[name] - before[name]).abs().max()) for name in before)
    found["equal"] = step(halves)
    integers = integer_model()
    optimizer = int8.ElasticZO(integers, 1, ranks=True)
    found["unequal int8"] = told(
        lambda: optimizer.step(lambda: int8.Loss(integers(int8.quantize_at(x[own], -6)), Y[own]))
    )
    return found


def told(work: Callable[[], Any]) -> str:
    try:
        work()
    except (ValueError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def lost(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Rank 1 is gone at step 3."""
    return _left(rank, lambda: os._exit(0))


def slow(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Rank 1 does not answer."""
    return _left(rank, lambda: time.sleep(4))


def _left(rank: int, leave: Callable[[], None]) -> dict[str, Any]:
    model = float_model()
    optimizer = ezo.ElasticZO(model, 0, ranks=Ranks(timeout_seconds=1))
    started = 0.0
    try:
        for k in range(6):
            if k == 3:
                started = time.perf_counter()
                if rank == 1:
                    leave()
            optimizer.step(lambda k=k: model(batch(k)).square().mean())  # type: ignore[misc]
    except LostRank as error:
        return {"error": str(error), "seconds": time.perf_counter() - started}
    return {}


def training_lost(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Rank 1 is gone in the middle of a run that keeps checkpoints."""
    try:
        for row in train.train(
            RUN["int8"].settled(), ranks=Ranks(), out=folder / "resumed", checkpoint_steps=3
        ):
            if rank == 1 and row.step == 0:
                _die_at(7)
    except LostRank as error:
        return {"error": str(error)}
    return {}


def _die_at(step: int) -> None:
    whole = int8.ElasticZO._step

    def dying(self: Any, closure: Any) -> Any:
        if self._steps == step:
            os._exit(0)
        return whole(self, closure)

    int8.ElasticZO._step = dying  # type: ignore[method-assign]


def training_resumed(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """And goes on."""
    rows = list(train.train(RUN["int8"], ranks=Ranks(), out=folder / "resumed"))
    return {"rows": [(r.metric, r.step, r.value, r.note) for r in rows]}


def ended(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Train, end the group, and say which of its threads are left (Linux)."""
    x, model = torch.ones(4, 3), nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    for p in model.parameters():
        nn.init.ones_(p)
    optimizer = ezo.ElasticZO(model, 1, eps=1e-3, ranks=True)
    optimizer.step(lambda: model(x).square().mean())
    running = _threads()
    torch.distributed.destroy_process_group()
    return {"running": running, "left": _threads()}


def _threads() -> set[str]:
    names = (task / "comm" for task in Path("/proc/self/task").iterdir())
    return {name.read_text().strip() for name in names}


def launch(size: int, work: Callable[..., dict[str, Any]], folder: Path) -> None:
    """Fork the ranks, and wait."""
    children = []
    for rank in range(size):
        if pid := os.fork():
            children.append(pid)
            continue
        status = 1
        try:
            # named, so that it outlives the group: the last rank's removes the file
            store = torch.distributed.FileStore(f"{folder}/{work.__name__}-{size}", size)
            torch.distributed.init_process_group(
                "gloo",
                store=store,
                rank=rank,
                world_size=size,
                timeout=datetime.timedelta(seconds=120),
            )
            found = work(rank, size, folder)
            (folder / f"{work.__name__}-{size}-{rank}.pkl").write_bytes(pickle.dumps(found))
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    for pid in children:
        os.waitpid(pid, 0)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size, work in (
        (2, scenarios), (4, scenarios), (2, lost), (2, slow), (2, training_lost),
        (2, training_resumed), (2, ended),
    ):  # fmt: skip
        launch(size, work, Path(sys.argv[1]))
