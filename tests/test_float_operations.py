"""Counting floating-point operations: none in an integer step, and one that is there is seen."""

import pytest
import torch

from bench import float_operations, grid


def count(work):
    with float_operations._Count() as counted:
        work()
    return counted.floating


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.zeros(2) + torch.ones(2),
        lambda: torch.arange(3).float(),
        lambda: torch.arange(3) > 0.5,
    ],
)
def test_an_operation_with_a_floating_point_number_is_seen(work):
    assert count(work) >= 1


def test_operations_on_integers_are_not_counted():
    assert count(lambda: torch.arange(6).view(2, 3) @ torch.arange(3)) == 0


def test_a_step_in_integers_has_none():
    for case in grid.cases(float_operations, "lenet5", ["elastic-2", "full-bp"], 4):
        (row,) = float_operations.measure(case)
        assert row.value == 0 and row.precision == "int8" and "operations" in row.note
