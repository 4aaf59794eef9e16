"""Clouds that stand upright: generated, the same bits on every processor, and not too easy."""

import pytest
import torch

from ezo import catalogue
from ezo.data import shapes_upright


@pytest.fixture(scope="module")
def data():
    return shapes_upright.load("shapes-upright-256")


def test_shape_balance_and_grid(data):
    assert data.train_x.shape == (4000, 256, 3) and data.test_x.shape == (1024, 256, 3)
    assert data.train_y.bincount().tolist() == [250] * 16
    assert data.test_y.bincount().tolist() == [64] * 16
    steps = data.train_x / shapes_upright.SPACING
    assert torch.equal(steps, steps.round())
    assert data.train_x.mean(1).abs().max() < 1e-3
    assert (data.train_x.norm(dim=2).amax(1) - 1).abs().max() < 1e-3


def test_augmentation_turns_about_the_vertical_axis_alone(data, monkeypatch):
    x = data.train_x[:64]
    monkeypatch.setattr(
        shapes_upright, "jitter", lambda shape, generator: torch.zeros(shape, dtype=torch.float64)
    )
    turned = shapes_upright.augment(x, torch.Generator().manual_seed(3))
    assert torch.equal(turned[..., 2], x[..., 2])
    ours, theirs = turned[..., :2].norm(dim=2), x[..., :2].norm(dim=2)
    assert (ours - theirs).abs().max() < 2 * shapes_upright.SPACING
    assert (turned - x).abs().amax((1, 2)).median() > 0.5  # by any angle


def test_augmentation_depends_on_its_generator_alone(data):
    x = data.train_x[:8]
    before = torch.get_rng_state()
    first, again = (shapes_upright.augment(x, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again) and torch.equal(before, torch.get_rng_state())
    other = shapes_upright.augment(x, torch.Generator().manual_seed(6))
    assert not torch.equal(first, other) and (first - x).abs().max() > 0


def accuracy(features, data):
    """Of a linear classifier by least squares."""
    a, b = (torch.cat([features(x), torch.ones(len(x), 1)], 1) for x in (data.train_x, data.test_x))
    targets = torch.nn.functional.one_hot(data.train_y).float()
    guesses = (b @ torch.linalg.lstsq(a, targets).solution).argmax(1)
    return 100 * (guesses == data.test_y).float().mean().item()


def test_extents_and_centroids_do_not_solve_it(data):
    def extents(x):
        return x.amax(1) - x.amin(1)

    assert 10 < accuracy(extents, data) < 50

    def statistics(x):
        return torch.cat([extents(x), x.std(1)], 1)

    train, test = statistics(data.train_x), statistics(data.test_x)
    centroids = torch.stack([train[data.train_y == k].mean(0) for k in range(16)])
    guesses = torch.cdist(test, centroids).argmin(1)
    assert 10 < 100 * (guesses == data.test_y).float().mean() < 50


def test_names():
    for name in ("shapes-upright", "shapes-upright-64"):
        assert catalogue.find("data", name) is shapes_upright
    with pytest.raises(ValueError, match="at least 2 points in a cloud, got 'shapes-upright-1'"):
        shapes_upright.load("shapes-upright-1")
