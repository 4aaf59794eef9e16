"""What every data set must satisfy."""

import dataclasses
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from ezo import catalogue
from ezo.data import Dataset
from tests.members import examples

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data
MISSING = (FileNotFoundError, ModuleNotFoundError)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    with pytest.MonkeyPatch.context() as patch:
        for place, name in (
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (socket, "getaddrinfo"),
        ):
            patch.setattr(place, name, refuse)
        yield


@pytest.fixture(scope="module", params=examples("data"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loading(
    name: str, tmp_path_factory: pytest.TempPathFactory, no_network: None
) -> Callable[[], Dataset]:
    """Loads the data set from ``EZO_DATA`` where that is set, else from an empty folder."""
    root = None if os.environ.get("EZO_DATA") else tmp_path_factory.mktemp("empty")
    return lambda: catalogue.find("data", name).load(name, root)


@pytest.fixture(scope="module")
def found(loading: Callable[[], Dataset]) -> Dataset | Exception:
    try:
        return loading()
    except MISSING as error:
        return error


@pytest.fixture
def dataset(name: str, found: Dataset | Exception) -> Dataset:
    if isinstance(found, Exception):
        pytest.skip(f"{name} is not on this machine")
    return found


def test_missing_files_are_named_with_the_fix(found: Dataset | Exception) -> None:
    if isinstance(found, Exception):
        assert str(found).startswith("expected ")
        assert re.search(r"--data-root.*EZO_DATA|pip install -e '\.\[train\]'", str(found))


@pytest.mark.parametrize("needless", ["digits", "shapes-256"])
def test_some_data_sets_need_no_files(needless: str, tmp_path: Path, no_network: None) -> None:
    assert len(catalogue.find("data", needless).load(needless, tmp_path).train_x)


def test_data_set_is_whole_and_well_formed(name: str, dataset: Dataset) -> None:
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert len(x) == len(y) > 0 and y.dim() == 1
        assert x.dim() in (3, 4) and x.shape[1:] == dataset.train_x.shape[1:]
        assert torch.isfinite(x).all()
        assert y.unique().tolist() == list(range(dataset.classes))
    if dataset.train_x.dim() == 4:
        assert dataset.train_x.shape[1:] == (1, 28, 28)
    else:
        assert dataset.train_x.shape[2] == 3
        assert dataset.train_x.shape[1] == (256 if name.endswith("-256") else 1024)
    assert re.fullmatch("[0-9a-f]{64}", dataset.checksum)


def test_images_have_mean_0_and_variance_1(name: str, dataset: Dataset) -> None:
    if dataset.train_x.dim() != 4 or "-rot" in name:  # rotated images have the scale of unrotated
        return
    assert dataset.train_x.mean(dtype=torch.float64).item() == pytest.approx(0, abs=1e-4)
    assert dataset.train_x.double().var().item() == pytest.approx(1, abs=1e-3)


def test_data_set_is_the_same_on_every_load(
    dataset: Dataset, loading: Callable[[], Dataset]
) -> None:
    before = torch.get_rng_state()
    again = loading()
    assert torch.equal(torch.get_rng_state(), before)
    assert again.checksum == dataset.checksum
    assert torch.equal(again.test_x, dataset.test_x)


def test_augmentation_depends_on_its_generator_alone(dataset: Dataset) -> None:
    if dataset.augment is None:
        return
    x = dataset.train_x[:4].clone()
    before = torch.get_rng_state()
    first, again, other = (
        dataset.augment(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, dataset.train_x[:4])
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_checksum_sees_one_element_of_each_tensor(part: str) -> None:
    data = catalogue.find("data", "tiny-images").load("tiny-images")
    changed = getattr(data, part).clone()
    changed.view(-1)[-1] += 1
    assert dataclasses.replace(data, **{part: changed}).checksum != data.checksum
    assert dataclasses.replace(data).checksum == data.checksum
