"""1,000 devices train one model, each on examples of its own, and send seeds and scalars.

``python examples/federated.py --data mnist``. In a round some devices take part. Each brings its
copy of the model up to date by replaying what all sent since it last took part, makes a few full-ZO
steps on its own examples with noise of its own seed, and sends the scalar of each, two bytes. All
apply all: the round's weights are those before it, moved by every update. Then the same steps in
one place, on all examples (centralised), and federated averaging (FedAvg, McMahan et al. 2017),
whose devices send their weights, to the accuracy that ZO reached.

Devices are simulated on a Dask cluster of processes here. Bytes are of payloads alone.
"""

import argparse
import functools
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dask
import numpy as np
import torch
from distributed import Client, LocalCluster
from torch import Tensor, nn

import ezo
from ezo import checkpoint
from ezo.optim import Update
from ezo.run import Run, build, load

SCALAR_BYTES = 2  # float16
SEED_BYTES = 8


@dataclass(frozen=True)
class Setting:
    """What all devices know."""

    data: str
    devices: int
    participants: int
    local_steps: int
    rounds: int
    batch_size: int
    lr: float
    eps: float
    clip: float

    @property
    def run(self) -> Run:
        return Run("lenet5", self.data, "full-zo")

    def lr_of(self, number: int) -> float:
        """Of a round; it falls to a thirtieth, as `ezo train`'s does."""
        return self.lr * 0.03 ** (number / self.rounds)

    def chosen(self, number: int) -> list[int]:
        """The devices of a round."""
        generator = torch.Generator().manual_seed(number)
        order = torch.randperm(self.devices, generator=generator)
        return order[: self.participants].tolist()


@functools.cache
def world(setting: Setting) -> tuple[Any, nn.Module]:
    """The data, and the model as it begins; a process loads them once."""
    torch.set_num_threads(1)
    data = load(setting.run)
    return data, build(setting.run, data.classes, data.train_x.shape[1])


def own_examples(setting: Setting, device: int) -> tuple[Tensor, Tensor]:
    """Those of a device, every 1,000th of all: nobody else has them."""
    data, _ = world(setting)
    return data.train_x[device :: setting.devices], data.train_y[device :: setting.devices]


def seed_of(*place: int) -> int:
    return int.from_bytes(hashlib.sha256(repr(place).encode()).digest()[:8], "little")


def optimizer_of(setting: Setting, model: nn.Module, number: int, device: int) -> ezo.ElasticZO:
    how = {"lr": setting.lr_of(number), "eps": setting.eps, "clip": setting.clip}
    return ezo.ElasticZO(model, bp=0, seed=seed_of(number, device), **how)


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x), y)


# What a process has replayed of the history: on a real device this is its own copy of the model.
_replica: dict[Setting, tuple[int, nn.Module]] = {}


def caught_up(setting: Setting, history: list[np.ndarray]) -> nn.Module:
    """The model after all rounds so far."""
    done, model = _replica.get(setting, (0, None))
    if model is None or done > len(history):
        done, model = 0, build(setting.run, world(setting)[0].classes, 1)
    for number in range(done, len(history)):
        apply_round(setting, model, number, history[number])
    _replica[setting] = len(history), model
    return model


def apply_round(setting: Setting, model: nn.Module, number: int, scalars: np.ndarray) -> None:
    """Every update that the devices of a round sent, in one order everywhere."""
    lr = setting.lr_of(number)
    for device, own in zip(setting.chosen(number), scalars, strict=True):
        optimizer = optimizer_of(setting, model, number, device)
        seed = seed_of(number, device)
        groups = [((setting.eps, lr * float(g), 0.0),) for g in own]
        optimizer.replay([(Update(seed, step, 0, of),) for step, of in enumerate(groups)])


def device_round(setting: Setting, history: list[np.ndarray], device: int) -> np.ndarray:
    """A device's scalars (local_steps,), float16; its copy of the model ends as it began."""
    number = len(history)
    model = caught_up(setting, history)
    before = [p.detach().clone() for p in model.parameters()]
    x, y = own_examples(setting, device)
    generator = torch.Generator().manual_seed(seed_of(number, device, 1) >> 1)
    optimizer = optimizer_of(setting, model, number, device)
    found = []
    for _ in range(setting.local_steps):
        at = torch.randperm(len(x), generator=generator)[: setting.batch_size]
        optimizer.step(lambda at=at: loss_of(model, x[at], y[at]))  # type: ignore[misc]
        ((update,),) = optimizer.applied
        found.append(update.groups[0][1] / setting.lr_of(number))
    with torch.no_grad():
        for p, old in zip(model.parameters(), before, strict=True):
            p.copy_(old)
    return np.array(found, np.float16)


def averaged_round(
    setting: Setting, weights: dict[str, Tensor], devices: list[int], seed: int
) -> list[dict[str, Tensor]]:
    """Of FedAvg: each device's weights after five epochs of its own SGD."""
    found = []
    for device in devices:
        model = build(setting.run, world(setting)[0].classes, 1)
        model.load_state_dict(weights)
        x, y = own_examples(setting, device)
        sgd = torch.optim.SGD(model.parameters(), 0.05)
        generator = torch.Generator().manual_seed(seed_of(seed, device) >> 1)
        for _ in range(5):
            order = torch.randperm(len(x), generator=generator)
            for at in order.split(10):
                sgd.zero_grad()
                loss_of(model, x[at], y[at]).backward()
                sgd.step()
        found.append({name: t.clone() for name, t in model.state_dict().items()})
    return found


@torch.no_grad()
def accuracy(setting: Setting, model: nn.Module) -> float:
    """On the test set, in %."""
    data, _ = world(setting)
    parts = zip(data.test_x.split(500), data.test_y.split(500), strict=True)
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in parts)
    return 100 * right / len(data.test_y)


def federated(setting: Setting, client: Client) -> tuple[nn.Module, list[np.ndarray], int, int]:
    """All rounds: the model, the history, and the bytes that went up and down."""
    history: list[np.ndarray] = []
    last: dict[int, int] = {}  # the rounds that a device knows
    up = down = 0
    for number in range(setting.rounds):
        devices = setting.chosen(number)
        sent = client.map(functools.partial(device_round, setting, history), devices, pure=False)
        scalars = np.stack(client.gather(sent))
        per_round = SCALAR_BYTES * scalars.size
        up += per_round
        for device in devices:
            # the weights begin from a seed; who takes part follows from the round's number
            missed = number - last.get(device, 0)
            down += per_round * missed + (0 if device in last else SEED_BYTES)
            last[device] = number
        history.append(scalars)
        told("ZO", number + 1, setting.rounds)
    return caught_up(setting, history), history, up, down


def centralised(setting: Setting) -> nn.Module:
    """As many steps in one place, each on examples of all."""
    data, _ = world(setting)
    model = build(setting.run, data.classes, 1)
    optimizer = optimizer_of(setting, model, 0, 0)
    generator = torch.Generator().manual_seed(0)
    each = setting.participants * setting.local_steps
    for k in range(setting.rounds * each):
        if k % each == each - 1:
            told("centralised", (k + 1) // each, setting.rounds)
        at = torch.randint(len(data.train_x), (setting.batch_size,), generator=generator)
        x, y = data.train_x[at], data.train_y[at]
        optimizer.param_groups[0]["lr"] = setting.lr_of(k // each)
        optimizer.step(lambda x=x, y=y: loss_of(model, x, y))  # type: ignore[misc]
    return model


def averaging(setting: Setting, client: Client, until: float) -> Iterator[tuple[float, int]]:
    """FedAvg to an accuracy: after each round, that and the bytes that went up; as many go down."""
    data, _ = world(setting)
    model = build(setting.run, data.classes, 1)
    size = sum(t.nbytes for t in model.state_dict().values())
    found, sent, number = 0.0, 0, 0
    while found < until and number < setting.rounds:
        weights = {name: t.clone() for name, t in model.state_dict().items()}
        devices = setting.chosen(number)
        halves = [devices[::2], devices[1::2]]
        work = functools.partial(averaged_round, setting, weights, seed=number)
        parts = client.gather(client.map(work, halves, pure=False))
        every = [of for part in parts for of in part]
        model.load_state_dict({n: sum(of[n] for of in every) / len(every) for n in weights})
        sent += size * len(devices)
        number += 1
        found = accuracy(setting, model)
        told(f"FedAvg, {found:.2f} of {until:.2f} %", number, setting.rounds)
        yield found, sent


def told(what: str, number: int, rounds: int) -> None:
    """Say how far it is."""
    print(f"{what}: {number} of {rounds} rounds", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", default="digits", help="a data set of images that `ezo list` shows")
    add("--devices", type=int, default=1000, help="in all")
    add("--participants", type=int, default=50, help="devices of a round")
    add("--local-steps", type=int, default=4, help="of a device in a round")
    add("--rounds", type=int, default=50, help="of ZO")
    add("--batch-size", type=int, default=32, help="examples of a step, or all that a device has")
    add("--lr", type=float, default=5e-4, help="ZO learning rate of the first round")
    add("--eps", type=float, default=2.5e-3, help="ZO perturbation")
    add("--clip", type=float, default=5.0, help="bound on a scalar")
    setting = Setting(**vars(parser.parse_args()))
    if not 0 < setting.participants <= setting.devices:
        parser.error(
            f"expected --participants from 1 to --devices, {setting.devices}, got "
            f"{setting.participants}"
        )
    dask.config.set({"distributed.worker.daemon": False})
    how = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": ":0"}
    with LocalCluster(**how) as cluster, Client(cluster) as client:
        report(setting, client)


def report(setting: Setting, client: Client) -> None:
    """Run all three, and print what they reached and sent."""
    torch.set_num_threads(1)
    model, history, up, down = federated(setting, client)
    late = build(setting.run, world(setting)[0].classes, 1)
    for number, scalars in enumerate(history):
        apply_round(setting, late, number, scalars)
    same = checkpoint.digest(late.state_dict()) == checkpoint.digest(model.state_dict())
    reached, alone = accuracy(setting, model), accuracy(setting, centralised(setting))
    print(f"{setting.devices:,} devices, {setting.participants} participants a round")
    print(f"ZO             {reached:6.2f} %  {setting.rounds:>4} rounds, {up:>13,} B up", end="")
    print(f", {down:>13,} B down")
    print(f"centralised    {alone:6.2f} %  as many steps in one place")
    fedavg = list(averaging(setting, client, reached))
    accuracy_of, sent = fedavg[-1]
    print(f"FedAvg         {accuracy_of:6.2f} %  {len(fedavg):>4} rounds, {sent:>13,} B up", end="")
    print(f", {sent:>13,} B down; to the first round as accurate as ZO, at most {setting.rounds}")
    print(
        f"upload         1 / {sent / up:,.0f} of FedAvg's; in all 1 / {2 * sent / (up + down):,.0f}"
    )
    print(f"a device that replays all scalars from the start has the same weights: {same}")


if __name__ == "__main__":
    import federated  # by name: workers keep what they replayed; of a script they get copies

    federated.main()
