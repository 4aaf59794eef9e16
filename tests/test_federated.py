"""The federated example: what devices send is all there is, and anyone can replay it."""

import importlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ezo import checkpoint

pytest.importorskip("distributed", reason="the extra dask is not installed")


class Now:
    """A Dask client that does the work at once."""

    def map(self, work: Any, tasks: Any, pure: bool) -> list[Any]:
        return [work(task) for task in tasks]

    def gather(self, found: list[Any]) -> list[Any]:
        return found


@pytest.fixture(scope="module")
def example() -> Any:
    return importlib.import_module("examples.federated")


def setting_of(example: Any) -> Any:
    how = {"devices": 20, "participants": 3, "local_steps": 2, "rounds": 4, "batch_size": 16}
    return example.Setting("digits", **how, lr=5e-4, eps=2.5e-3, clip=5.0)


def test_whoever_replays_all_scalars_has_the_weights_and_bytes_are_counted(example: Any) -> None:
    setting = setting_of(example)
    model, history, up, down = example.federated(setting, Now())
    late = example.build(setting.run, 10, 1)
    began = checkpoint.digest(late.state_dict())
    for number, scalars in enumerate(history):
        example.apply_round(setting, late, number, scalars)
    ours = checkpoint.digest(model.state_dict())
    assert checkpoint.digest(late.state_dict()) == ours != began
    assert all(of.dtype == np.float16 and of.shape == (3, 2) for of in history)
    assert up == 4 * 3 * 2 * 2
    seen: dict[int, int] = {}
    missed = 0
    for number in range(4):
        for device in setting.chosen(number):
            missed += number - seen.get(device, 0)
            seen[device] = number
    assert down == missed * 3 * 2 * 2 + len(seen) * 8


def test_devices_have_examples_of_their_own_and_leave_their_copy_as_it_was(example: Any) -> None:
    setting = setting_of(example)
    data, _ = example.world(setting)
    sizes = [len(example.own_examples(setting, device)[0]) for device in range(20)]
    assert sum(sizes) == len(data.train_x) and min(sizes) > 70
    history = [np.ones((3, 2), np.float16)]
    before = checkpoint.digest(example.caught_up(setting, history).state_dict())
    one, other = (example.device_round(setting, history, device) for device in (4, 5))
    assert checkpoint.digest(example.caught_up(setting, history).state_dict()) == before
    assert one.tolist() != other.tolist() and abs(one).max() <= 5


def test_averaging_counts_weights_both_ways(example: Any) -> None:
    setting = replace(setting_of(example), devices=5)
    found = list(example.averaging(setting, Now(), until=15.0))
    accuracy, sent = found[-1]
    weights = sum(p.nbytes for p in example.build(setting.run, 10, 1).parameters())
    assert sent == len(found) * 3 * weights
    assert accuracy >= 15.0 or len(found) == 4
    assert torch.get_num_threads() == 1
