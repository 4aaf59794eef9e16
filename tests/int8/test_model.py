"""Integer networks: how near they are to float, forward and backward."""

import contextlib

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from ezo import phases
from ezo.int8.convert import from_float
from ezo.int8.layers import Conv2d, Linear, Weighted, _sum
from ezo.int8.maps import MaxOverPoints
from ezo.int8.network import Network as Integers
from ezo.int8.ops import LONGEST_SUM, aligned
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.models import lenet5, pointnet
from tests.backends import PATHS, on
from tests.oracles import rounding as oracle

LARGEST_SUM = LONGEST_SUM * 127**2


def lenet():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = lenet5.build("lenet5")
        for p in model.parameters():
            if p.dim() == 1:
                nn.init.uniform_(p, -0.1, 0.1)
    return model


def images(n=16):
    return torch.randn(n, 1, 28, 28, generator=torch.Generator().manual_seed(1))


def test_lenet_s_logits_are_near_the_float_model_s():
    model, x = lenet(), images()
    logits = from_float(model)(quantize(x))
    assert logits.m.dtype == torch.int32
    with torch.no_grad():
        wanted = model(x)
    error = (logits.to_float() - wanted).std() / wanted.std()
    assert error < 0.08  # seven bits at each of five layers


def test_pointnet_s_logits_are_near_the_float_model_s():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = pointnet.build("pointnet", 7)
    x = torch.randn(3, 50, 3, generator=torch.Generator().manual_seed(1))
    logits = from_float(model)(quantize(x))
    with torch.no_grad():
        wanted = model(x)
    assert (logits.to_float() - wanted).std() / wanted.std() < 0.15


def test_conversion_keeps_every_weight_within_half_a_unit_and_the_headroom():
    model = lenet()
    layers = from_float(model, headroom=15).weighted()
    kinds = [m for m in model if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer, m in zip(layers, kinds, strict=True):
        for q, e, w in (
            (layer.weight, layer.weight_exponent, m.weight),
            (layer.bias, layer.bias_exponent, m.bias),
        ):
            assert q.abs().max() <= 112 and q.shape == w.shape
            assert (q.double() * 2.0**e - w.double()).abs().max() <= 2.0**e / 2
        assert layer.bias_exponent >= layer.weight_exponent


def test_room_for_the_last_layers_weights_changes_their_places_and_not_their_values():
    net, roomy = from_float(lenet()), from_float(lenet())
    for layer in roomy.weighted()[3:]:
        layer.make_room(3)
    for i, (before, after) in enumerate(zip(net.weighted(), roomy.weighted(), strict=True)):
        bits = 3 if i >= 3 else 0
        assert after.weight_exponent == before.weight_exponent + bits
        assert after.bias_exponent == before.bias_exponent + bits
        for old, new in ((before.weight, after.weight), (before.bias, after.bias)):
            assert (new.double() * 2**bits - old.double()).abs().max() <= 2**bits / 2
            assert int(new.abs().max()) <= 128 >> bits
    assert net(quantize(images())).e != roomy(quantize(images())).e


@given(
    old=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=5, max_size=5),
    new=st.lists(st.integers(-(2**31) + 1, 2**31 - 1), min_size=5, max_size=5),
    apart=st.integers(-40, 40),
    room=st.integers(0, 1),
)
@example(old=[LARGEST_SUM] * 5, new=[LARGEST_SUM] * 5, apart=0, room=1)
@example(old=[-LARGEST_SUM] * 5, new=[-LARGEST_SUM] * 5, apart=0, room=1)
def test_two_passes_gradients_add_up(old, new, apart, room):
    if not room:
        old, new = [x // 2 for x in old], [x // 2 for x in new]
    elif max(map(abs, old + new)) > LARGEST_SUM:
        old, new = [x % LARGEST_SUM for x in old], [x % LARGEST_SUM for x in new]
    top = max(3, 3 + apart) + room
    wanted = [
        oracle.nearest_unclipped(a, top - 3) + oracle.nearest_unclipped(b, top - 3 - apart)
        for a, b in zip(old, new, strict=True)
    ]
    a, b = (torch.tensor(x, dtype=torch.int32) for x in (old, new))
    found = _sum(Int8Tensor(a, 3), b, 3 + apart, room)
    assert found.m.dtype == torch.int32 and found.m.tolist() == wanted and found.e == top


@pytest.mark.parametrize("s", [0, 1, 40, 63, 64, 90])
def test_two_passes_gradients_in_int64_add_up(s):
    old, new = [-(2**61), 5, 2**40], [2**60, -7, 2**61 - 1]
    wanted = [oracle.nearest_unclipped(a, s) + b for a, b in zip(old, new, strict=True)]
    found = _sum(Int8Tensor(torch.tensor(old), 3), torch.tensor(new), 3 + s, 0)
    assert found.m.tolist() == wanted and found.e == 3 + s


def filled(*shape, m=127):
    return Int8Tensor(torch.full(shape, m, dtype=torch.int8), 0)


@pytest.mark.parametrize("isa", PATHS)
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    ("layer", "x", "err"),
    [
        (lambda: Linear(filled(2, 2), filled(2)), (LONGEST_SUM, 2), (LONGEST_SUM, 2)),
        (lambda: Linear(filled(2, 2), filled(2)), (LONGEST_SUM + 1, 2), (LONGEST_SUM + 1, 2)),
        (lambda: Conv2d(filled(2, 2, 1, 1), filled(2), 0), (17, 2, 88, 89), (17, 2, 88, 89)),
        (lambda: Conv2d(filled(2, 2, 1, 1), filled(2), 0), (5, 2, 31, 859), (5, 2, 31, 859)),
        (lambda: Conv2d(filled(2, 2, 3, 3), None, 0), (2, 2, 300, 300), (2, 2, 298, 298)),
    ],
    ids=["linear", "linear+1", "convolution", "convolution+1", "kernel 3"],
)
def test_gradients_of_the_largest_numbers_are_exact_at_any_batch_size(layer, x, err, isa, sign):
    layer = layer()
    products = torch.Size(err).numel() // 2  # each a position with a whole patch
    with on(isa):
        layer.keeping = True
        layer._kept = filled(*x).m, 0
        layer.backward(filled(*err, m=sign * 127), False)
    gradients = layer.weight_gradient, layer.bias_gradient
    for found, one in zip(gradients, (sign * 127**2, sign * 127), strict=True):
        if found is None:
            assert layer.bias is None
            continue
        assert found.m.unique().tolist() == [one * products]
        assert found.m.dtype == (torch.int32 if products <= LONGEST_SUM else torch.int64)


@pytest.mark.parametrize("isa", PATHS)
def test_clouds_with_more_points_than_int32_sums_hold(isa):
    model = Integers([Linear(filled(3, 2), filled(3)), MaxOverPoints(), Linear(filled(2, 3), None)])
    with on(isa):
        model.keep(2)
        model(filled(2, LONGEST_SUM // 2 + 1, 2))
        model.backward(filled(2, 2, m=64), 2)
    first = model.weighted()[0]
    # the error, 2 x 64 x 127 rounded to 7 bits, of both clouds; all points are equal
    assert first.weight_gradient.m.tolist() == [[2 * 127 * 127] * 2] * 3
    assert first.bias_gradient.m.tolist() == [2 * 127] * 3
    assert first.weight_gradient.m.dtype == torch.int64


@pytest.mark.parametrize("isa", PATHS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_widest_layers_are_exact_and_wider_ones_are_refused(isa, sign):
    x = Int8Tensor(filled(2, 99_858).m, 30)  # at which exponent the bias is held at 2^29
    bias = Int8Tensor(torch.full((3,), sign * 127, dtype=torch.int8), 60)
    layer = Linear(filled(3, 99_858, m=sign * 127), bias)
    with on(isa):
        found = Integers([layer])(x)
        assert found.m.tolist() == [[sign * (99_858 * 127**2 + 2**29)] * 3] * 2
        without = Linear(filled(3, LONGEST_SUM, m=sign * 127), None)
        found = Integers([without])(filled(2, LONGEST_SUM))
        assert found.m.tolist() == [[sign * LONGEST_SUM * 127**2] * 3] * 2


def test_a_zero_bias_gets_the_weight_s_exponent():
    layer = from_float(lenet5.build("lenet5")).weighted()[0]
    assert not layer.bias.any() and layer.bias_exponent == layer.weight_exponent


def test_the_last_layer_s_sums_are_exact():
    m = nn.Sequential(nn.Linear(5, 3))
    layer = from_float(m).weighted()[0]
    x = Int8Tensor(torch.arange(-5, 5).view(2, 5).to(torch.int8), -3)
    found = from_float(m)(x)
    e = layer.weight_exponent - 3
    assert found.e == e
    exact = x.m.double() @ layer.weight.double().t()
    exact += torch.round(layer.bias.double() * 2.0 ** (layer.bias_exponent - e))
    assert torch.equal(found.m.double(), exact)


@pytest.mark.parametrize("left", [-45, -40, -9, -8, -1, 0, 1, 22, 40, 90])
def test_a_bias_is_aligned_to_the_sums_exponent(left):
    m = torch.arange(-127, 128).to(torch.int8)
    exact = m.double() * 2.0**left
    wanted = (exact.abs() + 0.5).floor() * exact.sign()
    assert torch.equal(aligned(m, left).double(), wanted.clamp(-(2.0**29), 2.0**29))


def test_backward_gives_the_gradients_of_the_products_it_saw():
    """Each layer's gradient against float64, from the very activations and errors it had."""
    model = from_float(lenet())
    x = quantize(images(4))
    model.keep(5)
    seen = {}

    @contextlib.contextmanager
    def keep_input(layer):
        yield
        if isinstance(layer, Weighted):
            seen[list(model.layers).index(layer)] = layer._kept[0]

    with phases.at_work(keep_input):
        logits = model(x)
    assert len(seen) == 5
    err = torch.randint(-127, 128, logits.m.shape, generator=torch.Generator().manual_seed(2))
    errors = {}
    for i, layer in reversed(list(enumerate(model.layers))):
        errors[i] = err = err.to(torch.int8)
        err = layer.backward(Int8Tensor(err, -7)).m
        assert err.dtype == torch.int8 and err.abs().max() <= 127
    for i, x_m in seen.items():
        layer = model.layers[i]
        w = layer.weight.double().requires_grad_()
        f = (
            torch.nn.functional.linear(x_m.double(), w)
            if isinstance(layer, Linear)
            else torch.nn.functional.conv2d(x_m.double(), w, padding=layer.padding)
        )
        (wanted,) = torch.autograd.grad(f, w, errors[i].double())
        assert torch.equal(layer.weight_gradient.m.double(), wanted)
        dims = [d for d in range(errors[i].dim()) if d != (1 if errors[i].dim() == 4 else 1)]
        assert torch.equal(layer.bias_gradient.m.long(), errors[i].long().sum(dims))


def test_backward_s_errors_point_the_way_of_float_s():
    """Down to the first layer, int8 gradients stay close to the float model's in direction."""
    model, x = lenet(), images(32)
    y = torch.arange(32) % 10
    loss = nn.functional.cross_entropy(model(x), y)
    loss.backward()
    whole = from_float(model)
    whole.keep(5)
    p = torch.softmax(whole(quantize(x)).to_float(), 1)
    err = torch.round((p - nn.functional.one_hot(y, 10)) * 127).to(torch.int8)
    whole.backward(Int8Tensor(err, -7), 5)
    kinds = [m for m in model if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer, m in zip(whole.weighted(), kinds, strict=True):
        a, b = layer.weight_gradient.m.double().flatten(), m.weight.grad.double().flatten()
        assert torch.cosine_similarity(a, b, 0) > 0.9


@pytest.mark.parametrize("k", range(6))
def test_only_the_last_layers_keep_what_backward_needs(k):
    model = from_float(lenet())
    model.keep(k)
    logits = model(quantize(images(2)))
    model.backward(Int8Tensor(torch.ones_like(logits.m, dtype=torch.int8), -7), k)
    got = [layer.weight_gradient is not None for layer in model.weighted()]
    assert got == [False] * (5 - k) + [True] * k
    if k:
        with pytest.raises(RuntimeError, match="forward pass"):
            model.backward(Int8Tensor(torch.ones_like(logits.m, dtype=torch.int8), -7), k)


def test_weights_stay_in_row_major_order():
    """Kernels read them by address: channels_last would be other weights."""
    float_model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4))
    network = from_float(float_model)
    x = Int8Tensor(torch.randint(-99, 99, (2, 3, 8, 8), dtype=torch.int8), -6)
    before = network(x)
    network.to(memory_format=torch.channels_last)
    assert network.weighted()[0].weight.is_contiguous()
    assert torch.equal(network(x).m, before.m)
