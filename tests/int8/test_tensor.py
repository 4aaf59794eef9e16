"""Quantising and requantizing."""

import pytest
import torch

from ezo.int8.rounding import batch_shift, bit_width, shift
from ezo.int8.tensor import quantize


@pytest.mark.parametrize("largest", [127, 112, 64, 1])
@pytest.mark.parametrize("scale", [1e-30, 3e-3, 1.0, 127.0, 127.6, 128.0, 5e20])
def test_quantising_keeps_to_half_a_unit_and_uses_the_range(largest, scale):
    x = torch.linspace(-1, 1, 1001, dtype=torch.float64) * scale
    q = quantize(x, largest)
    assert q.m.dtype == torch.int8
    assert (q.m.double() * 2.0**q.e - x).abs().max() <= 2.0**q.e / 2
    assert largest / 2 - 1 <= q.m.abs().max() <= largest


def test_quantising_is_exact_on_what_is_int8_already():
    m = torch.arange(-127, 128)
    for e in (-60, -7, 0, 12):
        q = quantize(m.float() * 2.0**e)
        assert q.e == e and torch.equal(q.m.long(), m)
        assert torch.equal(q.to_float(), m.float() * 2.0**e)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (2, 2)])
def test_quantising_zeros_or_nothing(shape):
    q = quantize(torch.zeros(shape))
    assert q.m.shape == shape and q.m.dtype == torch.int8 and not q.m.any()


@pytest.mark.parametrize(
    "x, largest, words",
    [
        (float("nan"), 127, "finite"),
        (float("inf"), 127, "finite"),
        (1.0, 0, "largest"),
        (1.0, 128, "largest"),
    ],
)
def test_bad_arguments_are_named(x, largest, words):
    with pytest.raises(ValueError, match=words):
        quantize(torch.tensor([x]), largest)


@pytest.mark.parametrize("top", [0, 1, 127, 128, 255, 256, 2**20, 2**31 - 1])
def test_requantizing_fits_7_bits_and_keeps_to_half_a_unit(top):
    acc = torch.linspace(-1, 1, 801, dtype=torch.float64).mul(top).long().to(torch.int32)
    s = batch_shift(bit_width(acc))
    assert s == max(0, top.bit_length() - 7)
    m = shift(acc, s, "nearest")
    value = m.long() * 2**s
    clipped = m.abs() == 127
    assert ((value - acc.long()).abs()[~clipped] <= 2**s / 2).all()
    # 127.5 units and more would round to 128, which is not used
    assert ((value - acc.long()).abs()[clipped] <= 2**s).all()
