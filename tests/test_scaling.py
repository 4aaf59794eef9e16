"""The scaling benchmark: exponents that are known, and sizes on either side of a memory."""

import gc

import pytest

from bench import scaling
from bench.grid import Grid
from bench.memory import peak_bytes
from bench.scaling import Series, exponent, largest_size
from ezo.plan import simulate


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0, 2.0])
def test_exponent_is_the_power_of_the_size(power):
    assert exponent([(n, 7.0 * n**power) for n in (3, 5, 8, 40)]) == pytest.approx(power)


@pytest.mark.parametrize("memory", [0, 99, 100, 101, 399, 400, 12345])
def test_largest_size_fits_and_the_next_does_not(memory):
    def peak(size):
        return 100 * size * size

    found = largest_size(peak, memory)
    assert (found == 0 or peak(found) <= memory) and memory < peak(found + 1)


def test_a_line_is_gone_along_without_looking():
    seen = []

    def peak(size):
        seen.append(size)
        return 1000 + 10 * size

    assert largest_size(peak, 10**9, line_from=4) == (10**9 - 1000) // 10
    assert max(seen) == 8
    assert largest_size(peak, 1020, line_from=4) == 2


@pytest.fixture(scope="module")
def measured():
    gc.collect()
    standing = peak_bytes(lambda: None)  # tensors of other tests
    series = Series("convnet", "full-bp", "image", batch_size=4)
    return standing, scaling.measure(series, sizes=(8, 16), memories=(100_000,), steps=1)


def test_a_series_has_bytes_and_seconds_of_each_size(measured):
    _, measured = measured
    for metric, unit in (("peak_tensor_bytes", "B"), ("step_seconds", "s")):
        found = [row for row in measured if row.metric == metric]
        assert [row.config["size"] for row in found] == [8, 16]
        assert all(row.value > 0 and row.unit == unit for row in found)


def test_bytes_grow_with_the_images_area(measured):
    standing, measured = measured
    assert any(row.metric == "peak_tensor_bytes_exponent" for row in measured)
    bytes_of = [
        (row.config["size"], row.value - standing)
        for row in measured
        if row.metric == "peak_tensor_bytes"
    ]
    assert 1.7 < exponent(bytes_of) < 2  # what does not grow, parameters, lowers it


def test_the_next_size_does_not_fit(measured):
    _, measured = measured
    (found,) = [row for row in measured if row.metric == "largest_size"]
    series = Series("convnet", "full-bp", "image", batch_size=4)
    assert found.config["memory_bytes"] == 100_000
    peaks = [
        simulate(lambda size=size: series.prepare(size)).peak.peak_bytes
        for size in (found.value, found.value + 1)
    ]
    assert peaks[0] <= 100_000 < peaks[1]


@pytest.mark.parametrize("axis", ["image", "width", "depth", "batch"])
def test_a_step_on_shapes_has_the_measured_bytes(axis):
    series = Series("convnet", "elastic-1", axis, batch_size=2)
    gc.collect()
    before = peak_bytes(lambda: None)
    model, step = series.prepare(4)
    step()
    gc.collect()
    real = peak_bytes(step) - before
    assert simulate(lambda: series.prepare(4)).peak.peak_bytes == real


def test_the_grid_has_each_series_once():
    cells = Grid(scaling.MODELS, ["full-zo"], [8]).cells(scaling)
    assert [(c.model, c.axis) for c in cells] == [
        ("lenet5", "batch"), ("pointnet", "batch"), ("pointnet", "points"),
        ("convnet", "image"), ("convnet", "width"), ("convnet", "depth"),
    ]  # fmt: skip


def test_a_model_alone_has_no_other_s_series():
    assert [c.model for c in Grid(["lenet5"], ["full-zo"], [8]).cells(scaling)] == ["lenet5"]
