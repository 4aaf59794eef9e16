"""Roundings against an oracle on exact fractions, over whole domains."""

import pytest
import torch

from ezo.int8.rounding import ROUNDINGS, bit_width, shift
from tests.oracles import rounding as oracle

# Every remainder of every shift up to 9, both signs, and numbers about powers of two
EVERY = torch.arange(-1200, 1201)


@pytest.mark.parametrize("s", range(0, 10))
def test_nearest_agrees_with_exact_fractions(s):
    assert shift(EVERY, s, "nearest").tolist() == [oracle.nearest(x, s) for x in EVERY.tolist()]


@pytest.mark.parametrize("s", range(0, 10))
def test_pseudo_stochastic_agrees_with_lists_of_bits(s):
    wanted = [oracle.pseudo_stochastic(x, s) for x in EVERY.tolist()]
    assert shift(EVERY, s, "pseudo-stochastic").tolist() == wanted


@pytest.mark.parametrize("s", range(0, 8))
def test_stochastic_agrees_with_exact_fractions_for_every_random_number(s):
    for u in range(2**s):
        wanted = [oracle.stochastic(x, s, u) for x in EVERY.tolist()]
        # only the low s bits count
        given = torch.full_like(EVERY, u + (5 << s))
        assert shift(EVERY, s, "stochastic", given).tolist() == wanted


@pytest.mark.parametrize("s", range(1, 12))
def test_stochastic_is_unbiased_over_its_random_numbers(s):
    u = torch.arange(2**s)
    for x in (1, 3, -5, 2**s - 1, 2**s + 1):
        mean = shift(torch.full_like(u, x), s, "stochastic", u).double().mean().item()
        assert mean == x / 2**s


@pytest.mark.parametrize(
    "s, remainders", [(1, {1}), (2, {2}), (3, {2, 4, 6, 7})], ids=["1", "2", "3"]
)
def test_pseudo_stochastic_rounds_up_the_remainders_that_are_known(s, remainders):
    x = torch.arange(2**s)
    assert set(x[shift(x, s, "pseudo-stochastic") == 1].tolist()) == remainders


@pytest.mark.parametrize("s, mean", [(4, 0.375), (8, 0.46875)])
def test_pseudo_stochastic_rounds_up_as_often_as_is_known(s, mean):
    assert shift(torch.arange(2**s), s, "pseudo-stochastic").double().mean().item() == mean


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64])
def test_every_rounding_is_odd_and_clips_to_127(rounding, dtype):
    x = torch.tensor([0, 1, 63, 100, 127]).to(dtype)
    u = torch.tensor([1, 0, 3, 2, 1])
    for s in (-3, 0, 1, 2, 40, 62, 100):
        there, back = shift(x, s, rounding, u), shift(-x, s, rounding, u)
        assert there.dtype == torch.int8 and torch.equal(there, -back)
    large = torch.tensor([128, -128, 2**30, -(2**31)])
    assert shift(large, 0, rounding, large).abs().tolist() == [127] * 4


@pytest.mark.parametrize("shape", [(0,), (1,), (3, 0, 2), (2, 3)])
def test_any_shape_is_kept(shape):
    assert shift(torch.ones(shape, dtype=torch.int32), 1, "nearest").shape == shape


def test_input_that_is_not_contiguous_gives_the_same():
    x = torch.arange(-60, 60).view(10, 12)
    assert torch.equal(shift(x.t(), 3, "nearest"), shift(x, 3, "nearest").t())


@pytest.mark.parametrize("m", [0, 1, 2, 3, 127, 128, 255, 2**20, 2**31 - 1])
def test_bit_width_is_that_of_the_largest_magnitude(m):
    assert bit_width(torch.tensor([0, -m, m // 2])) == m.bit_length()
    assert bit_width(torch.tensor([], dtype=torch.int32)) == 0


def test_bit_width_of_the_most_negative_number_is_not_lost_to_overflow():
    assert bit_width(torch.tensor([-128], dtype=torch.int8)) == 8
    assert bit_width(torch.tensor([-(2**31)], dtype=torch.int32)) == 32


@pytest.mark.parametrize(
    "rounding, words", [("floor", "nearest, stochastic"), ("stochastic", "pass u")]
)
def test_bad_arguments_are_named(rounding, words):
    with pytest.raises(ValueError, match=words):
        shift(EVERY, 1, rounding)
