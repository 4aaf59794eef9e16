"""The integer loss and its gradient against float64, over all exponents and extreme logits."""

import math

import pytest
import torch

from ezo.int8.loss import (
    GRADIENT_BITS,
    LARGEST_LOSS,
    LOSS_FRACTION_BITS,
    NAT,
    cross_entropy,
    cross_entropy_gradient,
)

EXPONENTS = range(-45, 40)
ONE_BIT = 2**LOSS_FRACTION_BITS


def logits_of(kind, classes=10):
    g = torch.Generator().manual_seed(classes)
    if kind == "int8":
        return torch.randint(-127, 128, (200, classes), generator=g, dtype=torch.int8)
    if kind == "int32":
        return torch.randint(-(2**31) + 1, 2**31, (200, classes), generator=g, dtype=torch.int32)
    if kind == "equal":
        return torch.full((4, classes), 55, dtype=torch.int8)
    rows = [[127] + [-127] * (classes - 1), [-127] * (classes - 1) + [127], [0] * classes]
    rows += [[-127] * classes, [127] * (classes - 1) + [126], [1] + [0] * (classes - 1)]
    return torch.tensor(rows, dtype=torch.int8)


def in_float64(logits, exponent, target):
    """Losses in bits and probabilities, from the definition."""
    a = logits.double() * 2.0**exponent
    d = (a.amax(1, keepdim=True) - a) / math.log(2)
    e = torch.exp2(-d)
    n = torch.arange(len(a))
    return d[n, target] + torch.log2(e.sum(1)), e / e.sum(1, keepdim=True)


@pytest.mark.parametrize("kind", ["int8", "int32", "equal", "extreme"])
@pytest.mark.parametrize("classes", [1, 2, 10, 40, 1000])
def test_the_value_keeps_its_bound_at_every_exponent(kind, classes):
    logits = logits_of(kind, classes)
    for target in (torch.arange(len(logits)) % classes, logits.argmax(1), logits.argmin(1)):
        for exponent in EXPONENTS:
            found = cross_entropy(logits, exponent, target)
            wanted, _ = in_float64(logits, exponent, target)
            assert found.dtype == torch.int64 and bool((found >= 0).all())
            beyond = wanted > LARGEST_LOSS / ONE_BIT - 100
            assert bool((found[beyond] >= LARGEST_LOSS - 200 * ONE_BIT).all())
            error = (found.double() / ONE_BIT - wanted)[~beyond].abs()
            assert bool((error <= 8e-6 + 3e-10 * wanted[~beyond]).all()), exponent


@pytest.mark.parametrize("kind", ["int8", "int32", "equal", "extreme"])
@pytest.mark.parametrize("classes", [1, 2, 10, 40])
def test_the_gradient_keeps_its_bound_and_sums_to_0_at_every_exponent(kind, classes):
    logits = logits_of(kind, classes)
    target = torch.arange(len(logits)) % classes
    others = torch.ones_like(logits, dtype=torch.bool)
    others[torch.arange(len(logits)), target] = False
    for exponent in EXPONENTS:
        found = cross_entropy_gradient(logits, exponent, target)
        assert found.dtype == torch.int64 and bool((found.sum(1) == 0).all())
        _, p = in_float64(logits, exponent, target)
        error = (found.double() / 2**GRADIENT_BITS - p)[others].abs()
        assert bool((error <= 1 / 2**GRADIENT_BITS + 4e-6).all()), exponent


def test_the_value_s_differences_are_the_gradient():
    """A change of one logit by one unit changes the value by about the gradient."""
    logits = logits_of("int8") // 4
    target = torch.zeros(len(logits), dtype=torch.int64)
    for k in (0, 3):
        up, down = logits.clone(), logits.clone()
        up[:, k] += 1
        down[:, k] -= 1
        slope = cross_entropy(up, -6, target) - cross_entropy(down, -6, target)
        slope = slope.double() * NAT / (2 * 2.0**-6)
        gradient = cross_entropy_gradient(logits, -6, target)[:, k].double() / 2**GRADIENT_BITS
        assert bool(((slope - gradient).abs() < 10 / 2**GRADIENT_BITS).all())


def test_the_same_logits_on_another_scale_have_the_same_loss():
    logits, target = logits_of("int8") // 8, torch.arange(200) % 10
    for exponent in (-9, -4, 0):
        there = cross_entropy(logits, exponent, target)
        assert torch.equal(there, cross_entropy(logits * 4, exponent - 2, target))


def test_a_unit_is_so_many_nats():
    loss = cross_entropy(torch.zeros(1, 10, dtype=torch.int8), 0, torch.tensor([4]))
    assert loss.item() * NAT == pytest.approx(math.log(10), abs=1e-5)


def test_rounding_to_int8_is_unbiased():
    logits, target = logits_of("int8"), torch.arange(200) % 10
    exact = cross_entropy_gradient(logits, -5, target)
    rounded = [
        cross_entropy_gradient(logits, -5, target, torch.full(logits.shape, u)) for u in range(16)
    ]
    assert all(r.dtype == torch.int8 for r in rounded)
    mean = torch.stack(rounded).double().mean(0)
    whole = exact.abs() <= 127 * 16  # -2048 is clipped to -127
    assert torch.equal(mean[whole], exact[whole].double() / 16)
    assert bool((mean[~whole] == -127).all()) and bool((~whole).any())


def test_no_floating_point_tensor_is_ever_made():
    from torch.utils._python_dispatch import TorchDispatchMode

    class IntegersOnly(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for x in (*args, out):
                if isinstance(x, torch.Tensor):
                    assert not x.is_floating_point(), func
                    IntegersOnly.seen += 1
                assert not isinstance(x, float), func
            return out

    logits, target = logits_of("int8"), torch.arange(200) % 10
    with IntegersOnly():
        cross_entropy(logits, -5, target)
        cross_entropy_gradient(logits, -5, target, torch.zeros(logits.shape, dtype=torch.int64))
    assert IntegersOnly.seen > 50


@pytest.mark.parametrize("shape", [(0, 10), (1, 1)])
def test_no_examples_and_one_class(shape):
    logits, target = torch.zeros(shape, dtype=torch.int8), torch.zeros(shape[0], dtype=torch.int64)
    assert cross_entropy(logits, 0, target).tolist() == [0] * shape[0]
    assert cross_entropy_gradient(logits, 0, target).shape == shape
