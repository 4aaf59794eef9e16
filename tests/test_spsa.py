"""The change of the loss along a perturbation, to one number."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ezo.estimators.central import difference
from ezo.spsa import slope

losses = st.floats(-1e6, 1e6)
sizes = st.floats(1e-6, 1.0)


def projected_gradient(plus, minus, eps, clip=None):
    return slope(difference({1: plus, -1: minus}), eps, clip)


@settings(deadline=None, derandomize=True)
@given(losses, losses, sizes)
def test_is_the_slope_between_the_two_losses(plus, minus, eps):
    exact = (Fraction(plus) - Fraction(minus)) / (2 * Fraction(eps))
    assert projected_gradient(plus, minus, eps) == pytest.approx(
        float(exact), rel=1e-15, abs=1e-300
    )


@settings(deadline=None, derandomize=True)
@given(losses, losses, sizes)
def test_changes_sign_with_the_passes(plus, minus, eps):
    assert projected_gradient(plus, minus, eps) == -projected_gradient(minus, plus, eps)


@settings(deadline=None, derandomize=True)
@given(losses, losses, sizes, st.floats(1e-3, 1e3))
def test_a_clip_bounds_the_size_and_keeps_the_sign(plus, minus, eps, clip):
    free, bounded = projected_gradient(plus, minus, eps), projected_gradient(plus, minus, eps, clip)
    assert bounded == (free if abs(free) <= clip else math.copysign(clip, free))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("clip", [None, 1.0])
def test_is_nan_where_a_loss_is_not_finite(bad, clip):
    assert math.isnan(projected_gradient(bad, 1.0, 0.1, clip))
    assert math.isnan(projected_gradient(1.0, bad, 0.1, clip))
    assert math.isnan(projected_gradient(bad, bad, 0.1, clip))


@pytest.mark.parametrize("eps", [1.0, 0.5, 0.125])
def test_is_exact_on_a_quadratic_at_any_eps(eps):
    def loss(x):
        return 3 * x * x - 2 * x + 1

    assert projected_gradient(loss(2 + eps), loss(2 - eps), eps) == 6 * 2 - 2
