"""The embedded digits: split, scale and pixels."""

import sys

import pytest
import torch

from ezo.data import digits


@pytest.fixture(scope="module")
def data():
    return digits.load("digits")


def test_split_is_stratified_and_covers_all(data):
    assert data.train_x.shape == (1442, 1, 28, 28) and data.test_x.shape == (355, 1, 28, 28)
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    train, test = torch.bincount(data.train_y), torch.bincount(data.test_y)
    assert len(train) == len(test) == data.classes == 10
    assert torch.equal(test, (train + test) // 5)
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_no_image_is_in_both_parts(data):
    both = torch.cat([data.train_x, data.test_x]).flatten(1)
    assert len(both.unique(dim=0)) == 1797


def test_scale_is_of_the_training_images(data):
    assert abs(data.train_x.mean().item()) < 1e-5
    assert abs(data.train_x.std(correction=0).item() - 1) < 1e-5
    assert data.test_x.min() == data.train_x.min()  # the same black


def test_pixels_are_scikit_learns(data):
    from sklearn.datasets import load_digits

    small = torch.from_numpy(load_digits().images[0])  # the first 0, so for training
    x = data.train_x[0, 0].double()
    grey = (x - data.train_x.min()) / (data.train_x.max() - data.train_x.min()).double() * 16
    # Column 12 of 28 has its centre at 12.5 / 3.5 - 0.5 = 3.0714 of the 8 columns. Row 0 is the
    # border, where bilinear interpolation repeats the first row.
    expected = small[0, 3] + 0.5 / 7 * (small[0, 4] - small[0, 3])
    assert small[0, 3] != small[0, 4]
    assert grey[0, 12].item() == pytest.approx(expected.item(), abs=1e-4)
    assert data.train_y[0] == 0


def test_deterministic_without_touching_global_state(data):
    before = torch.get_rng_state()
    assert digits.load("digits").checksum == data.checksum
    assert torch.equal(torch.get_rng_state(), before)


def test_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"'sklearn'.*pip install -e '\.\[train\]'"):
        digits.load("digits")
