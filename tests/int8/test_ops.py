"""Integer layers against float64 layers and autograd, which are exact on integers this small."""

import hypothesis
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from ezo.int8 import ops

sizes = st.integers(0, 9)
positive = st.integers(1, 7)
few = hypothesis.settings(
    max_examples=40,
    derandomize=True,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)


def int8(*shape, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-127, 128, shape, generator=g, dtype=torch.int8)


@pytest.fixture(params=["int_mm", "int32"], autouse=True)
def product(request, monkeypatch):
    """Both ways to multiply."""
    if request.param == "int32":
        monkeypatch.setattr("ezo.int8.ops._int_mm_is_exact", lambda: False)
    elif not ops._int_mm_is_exact():
        pytest.skip("this processor's int8 product overflows")


def test_all_65536_pairs_of_int8_multiply_exactly():
    every = torch.arange(-128, 128).to(torch.int8).unsqueeze(1)
    wanted = [[a * b for b in range(-128, 128)] for a in range(-128, 128)]
    assert ops.matmul(every, every).tolist() == wanted
    for k in (2, 3, 64):  # and each pair in a sum of its own length, as a vector unit adds it
        repeated = every.repeat(1, k)
        assert ops.matmul(repeated, repeated).tolist() == [[k * v for v in row] for row in wanted]


def test_the_longest_sum_of_the_largest_products_is_exact_and_a_longer_one_is_refused():
    x = torch.full((1, ops.LONGEST_SUM), -127, dtype=torch.int8)
    assert ops.matmul(x, x).item() == ops.LONGEST_SUM * 127**2
    with pytest.raises(ValueError, match="at most 133144 products"):
        ops.matmul(*[torch.ones(1, ops.LONGEST_SUM + 1, dtype=torch.int8)] * 2)


@pytest.mark.parametrize("more", [-1, 0, 1, ops.LONGEST_SUM, ops.LONGEST_SUM + 1])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_product_of_any_length_is_exact(more, sign):
    k = ops.LONGEST_SUM + more
    err, x = torch.full((k, 2), sign * 127).to(torch.int8), torch.full((k, 3), 127).to(torch.int8)
    x[-1, 1] = 126
    largest = sign * k * 127**2
    found = ops.linear_gradient(err, x)
    assert found.tolist() == [[largest, largest - sign * 127, largest]] * 2
    assert found.dtype == (torch.int32 if more <= 0 else torch.int64)


@pytest.mark.parametrize(
    "a, b", [(int8(2, 3), int8(2, 4)), (int8(2, 3).int(), int8(2, 3)), (int8(3), int8(3))]
)
def test_matrices_that_do_not_fit_are_named(a, b):
    with pytest.raises(ValueError, match="expected int8 matrices"):
        ops.matmul(a, b)


@few
@given(n=sizes, points=st.integers(0, 3), i=positive, o=sizes, seed=st.integers(0, 99))
def test_linear_forward_and_backward(n, points, i, o, seed):
    shape = (n, points) if points else (n,)
    x, w, err = (
        int8(*shape, i, seed=seed),
        int8(o, i, seed=seed + 1),
        int8(*shape, o, seed=seed + 2),
    )
    in_float = [t.double().requires_grad_() for t in (x, w)]
    y = F.linear(*in_float)
    assert torch.equal(ops.linear(x, w).double(), y)
    wanted = torch.autograd.grad(y, in_float, err.double())
    backward = ops.linear_error(err, w), ops.linear_gradient(err, x)
    for found, exact in zip(backward, wanted, strict=True):
        assert found.dtype == torch.int32 and torch.equal(found.double(), exact)


@few
@given(
    n=st.integers(1, 3),
    c=positive,
    o=positive,
    extra=st.tuples(sizes, sizes),
    k=st.integers(1, 5),
    padding=st.integers(0, 2),
    seed=st.integers(0, 99),
)
def test_convolution_forward_and_backward(n, c, o, extra, k, padding, seed):
    padding = min(padding, k - 1)
    h, w = (max(1, k - 2 * padding + more) for more in extra)
    x, weight = int8(n, c, h, w, seed=seed), int8(o, c, k, k, seed=seed + 1)
    in_float = [t.double().requires_grad_() for t in (x, weight)]
    y = F.conv2d(*in_float, padding=padding)
    assert torch.equal(ops.conv2d(x, weight, padding).double(), y)
    err = int8(*y.shape, seed=seed + 2)
    wanted = torch.autograd.grad(y, in_float, err.double())
    backward = ops.conv2d_error(err, weight, padding), ops.conv2d_gradient(err, x, k, padding)
    for found, exact in zip(backward, wanted, strict=True):
        assert found.dtype == torch.int32 and torch.equal(found.double(), exact)


@few
@given(n=sizes, c=positive, h=sizes, w=sizes, size=st.integers(1, 3), seed=st.integers(0, 99))
def test_max_pooling_forward_and_backward(n, c, h, w, size, seed):
    h, w = max(h, size), max(w, size)
    x = int8(n, c, h, w, seed=seed) // 40  # many ties
    y, where = ops.max_pool2d(x, size)
    if n == 0:
        assert y.shape == (0, c, h // size, w // size)
        return
    # a slope too small to change the order of different numbers puts the first of equals ahead
    order = torch.arange(h * w).view(h, w).double() / (h * w * 4)
    in_float = (x.double() - order).requires_grad_()
    pooled = F.max_pool2d(in_float, size)
    assert torch.equal(y.double(), pooled.ceil())
    err = int8(*y.shape, seed=seed + 1)
    (wanted,) = torch.autograd.grad(pooled, in_float, err.double())
    found = ops.max_pool2d_backward(err, where, x.shape, size)
    assert found.dtype == torch.int8 and torch.equal(found.double(), wanted)


@few
@given(n=sizes, points=positive, c=sizes, seed=st.integers(0, 99))
def test_maximum_over_points_forward_and_backward(n, points, c, seed):
    x, err = int8(n, points, c, seed=seed) // 60, int8(n, c, seed=seed + 1)
    y, where = ops.max_over_points(x)
    found = ops.max_over_points_backward(err, where, points)
    for i in range(n):
        for j in range(c):
            column = x[i, :, j].tolist()
            assert y[i, j] == max(column)
            wanted = [0] * points
            wanted[column.index(max(column))] = err[i, j].item()
            assert found[i, :, j].tolist() == wanted


def test_relu_forward_and_backward():
    x = torch.arange(-128, 128).to(torch.int8)
    y = ops.relu(x)
    assert y.tolist() == [max(0, v) for v in range(-128, 128)]
    err = int8(256)
    assert ops.relu_backward(err, y).tolist() == [
        e if v > 0 else 0 for e, v in zip(err.tolist(), range(-128, 128), strict=True)
    ]


def test_input_that_is_not_contiguous_gives_the_same():
    x, w = int8(6, 4, 9, 7), int8(5, 4, 3, 3)
    odd = x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    assert not odd.is_contiguous()
    assert torch.equal(ops.conv2d(odd, w, 1), ops.conv2d(x, w, 1))
    assert torch.equal(ops.max_pool2d(odd, 2)[0], ops.max_pool2d(x, 2)[0])
    assert torch.equal(ops.linear(odd, int8(3, 7)), ops.linear(x, int8(3, 7)))


def test_views_whose_rows_overlap_or_have_gaps_multiply_exactly():
    x = int8(40)
    for a in (x.unfold(0, 8, 2), x.view(5, 8)[:, ::2], x.view(5, 8)[::2], x.view(5, 8).t()[::2]):
        b = int8(6, a.shape[1], seed=1)
        wanted = a.double() @ b.double().t()
        assert torch.equal(ops.matmul(a, b).double(), wanted)
        assert torch.equal(ops.matmul(b, a).double(), wanted.t())
