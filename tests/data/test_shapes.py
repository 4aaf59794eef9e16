"""Generated clouds: on their surfaces, uniform, reproducible, and not solved by their extents."""

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ezo.catalogue import find
from ezo.data import _points, shapes


@pytest.fixture(scope="module")
def data():
    return shapes.load("shapes-256")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_shape_and_balance(data):
    assert data.train_x.shape == (4000, 256, 3) and data.test_x.shape == (1024, 256, 3)
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    assert data.classes == 16
    assert torch.bincount(data.train_y).tolist() == [250] * 16
    assert torch.bincount(data.test_y).tolist() == [64] * 16
    assert len(data.train_y[:200].unique()) == 16  # shuffled


def test_centroid_is_zero_and_radius_one(data):
    for x in (data.train_x, data.test_x):
        assert x.mean(1).abs().max() < 1e-5
        torch.testing.assert_close(x.norm(dim=2).amax(1), torch.ones(len(x)))


def test_no_cloud_comes_twice(data):
    both = torch.cat([data.train_x, data.test_x]).flatten(1)
    assert len(both.unique(dim=0)) == 5024


def test_reproducible_without_touching_global_state(monkeypatch):
    monkeypatch.setattr(shapes, "TRAIN", 3)
    before = torch.get_rng_state()
    one = shapes.load("shapes-32")
    torch.manual_seed(1)
    torch.set_num_threads(2)  # the fixture of all tests sets it back
    assert shapes.load("shapes-32").checksum == one.checksum
    torch.set_rng_state(before)
    shapes.load("shapes-32")
    assert torch.equal(torch.get_rng_state(), before)


def test_names(monkeypatch):
    monkeypatch.setattr(shapes, "TRAIN", 1)
    monkeypatch.setattr(shapes, "TEST", 1)
    assert shapes.load("shapes").checksum == shapes.load("shapes-1024").checksum
    assert shapes.load("shapes-64").train_x.shape == (16, 64, 3)
    assert find("data", "shapes") is find("data", "shapes-64") is shapes
    for name in ("shapes-0", "shapes-1"):
        with pytest.raises(ValueError, match=f"at least 2 points.*'{name}'.*shapes-256"):
            shapes.load(name)


def test_extents_do_not_solve_it(data):
    """Place, size, bounding box and spread: a linear classifier gets nowhere near a network.

    For scale: a PointNet with batch norm and 30,000 parameters finds 82 % after 8 epochs of Adam.
    """

    def features(x):
        size = x.norm(dim=2)
        return torch.cat(
            [
                x.mean(1),
                size.amax(1)[:, None],
                size.mean(1)[:, None],
                x.amax(1) - x.amin(1),
                x.std(1),
            ],
            1,
        ).numpy()

    baseline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    baseline.fit(features(data.train_x), data.train_y)
    assert baseline.score(features(data.train_x), data.train_y) > 0.2  # it does learn something
    assert baseline.score(features(data.test_x), data.test_y) < 0.4


def test_points_are_uniform_on_a_surface():
    """A strip of two cells, 1 and 3 long, folded at a right angle: shares and quarters by area."""
    grid = torch.tensor([[[[0.0, 0, 0], [1, 0, 0], [1, 0, 3]], [[0, 2, 0], [1, 2, 0], [1, 2, 3]]]])
    x, y, z = shapes.on_surface(grid, 40_000, generator())[0].unbind(1)
    floor = z == 0
    assert torch.all((floor & (x <= 1)) | (x == 1))
    assert floor.float().mean().item() == pytest.approx(0.25, abs=0.01)
    assert (y < 1).float().mean().item() == pytest.approx(0.5, abs=0.01)
    assert (z[~floor] < 1).float().mean().item() == pytest.approx(1 / 3, abs=0.015)
    corner = (x[floor] < 0.5) & (y[floor] < 1)
    assert corner.float().mean().item() == pytest.approx(0.25, abs=0.02)


def test_cells_without_area_get_no_points():
    grid = torch.zeros(1, 2, 4, 3)
    grid[0, :, 2:, 0] = 1  # columns at x = 0, 0, 1, 1: only the middle cell has an area
    grid[0, 1, :, 1] = 1
    x = shapes.on_surface(grid, 1000, generator())[0, :, 0]
    assert x.min() > 0 and x.max() < 1


@pytest.mark.parametrize("family", shapes.FAMILIES)
def test_solids_are_closed_where_they_should_be(family):
    """Normals of a closed surface sum to zero, so what is open is a tube's ends or a band."""
    grid = shapes.FAMILIES[family](5, generator())
    assert grid.shape[0] in (1, 5) and grid.shape[3] == 3 and grid.isfinite().all()
    one = grid[:, 1:, 1:] - grid[:, :-1, :-1]
    two = grid[:, 1:, :-1] - grid[:, :-1, 1:]
    normals = torch.linalg.cross(one, two) / 2
    area = normals.norm(dim=3).sum((1, 2))
    assert torch.all(area > 1)
    if family not in ("helix", "moebius"):
        assert torch.all(normals.sum((1, 2)).norm(dim=1) < 1e-4 * area)


@pytest.mark.parametrize(
    ("family", "on"),
    [
        ("ellipsoid", lambda x: x.norm(dim=2) - 1),
        ("torus", lambda x: radius_of_tube(x).std(1)),
        ("box", lambda x: (x.abs() - x.abs().amax(1, keepdim=True)).abs().amin(2)),
        ("octahedron", lambda x: (x.abs() / x.abs().amax(1, keepdim=True)).sum(2) - 1),
    ],
)
def test_points_satisfy_their_solids_equation(family, on):
    grid = shapes.FAMILIES[family](4, generator())
    x = shapes.on_surface(grid, 4000, generator(1))
    assert on(x).abs().max() < 0.05  # round is 32 sides, and extents come from samples


def radius_of_tube(x):
    return torch.hypot(torch.hypot(x[..., 0], x[..., 1]) - 1, x[..., 2])


def test_augmentation_is_a_turn_a_shift_and_jitter(monkeypatch):
    monkeypatch.setattr(_points, "JITTER", 0.0)
    x = torch.randn(200, 50, 3, generator=generator())
    before = x.clone()
    y = _points.augment(x, generator(1))
    assert torch.equal(x, before)
    # Kabsch: the one rotation that best takes x, centred, to y, centred.
    centred, moved = x - x.mean(1, keepdim=True), y - y.mean(1, keepdim=True)
    u, _, v = torch.linalg.svd(moved.mT @ centred)
    turn = u @ v
    torch.testing.assert_close(torch.linalg.det(turn), torch.ones(200))
    torch.testing.assert_close(centred @ turn.mT, moved, atol=1e-4, rtol=0)
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    degrees = cosine.clamp(-1, 1).acos() * (180 / math.pi)
    assert degrees.max() < 45.1 and 15 < degrees.mean() < 30
    shift = (y - x @ turn.mT).mean(1)
    assert 0.08 < shift.abs().max() < 0.1001 and shift.std(0).min() > 0.03


def test_jitter_is_clipped_noise():
    noise = _points.jitter(torch.Size([1000, 1000]), generator())
    assert noise.std().item() == pytest.approx(0.01, rel=0.01)
    assert noise.abs().max() <= 0.05
    cloud = torch.zeros(1, 1000, 3)
    moved = _points.augment(cloud, generator())
    assert (moved - moved.mean(1, keepdim=True)).std().item() == pytest.approx(0.01, rel=0.1)


def test_augmentation_depends_on_its_generator_alone(data):
    x = data.train_x[:8]
    before = torch.get_rng_state()
    one, other = data.augment(x, generator(3)), data.augment(x, generator(3))
    assert torch.equal(one, other)
    assert not torch.equal(one, data.augment(x, generator(4)))
    assert one.dtype == torch.float32 and one.shape == x.shape
    assert torch.equal(torch.get_rng_state(), before)
