"""Networks with branches, and what those of MLPerf Tiny are made of: exact, everywhere, and near to
float."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ezo import catalogue, checkpoint, kernels
from ezo.export.describe import describe
from ezo.int8 import ElasticZO, Loss, SparseNoise, SquaredError, from_float, ops, sums
from ezo.int8.layer import ceiling, shift_within
from ezo.int8.layers import Linear
from ezo.int8.maps import Add, AvgPool2d, ReLU6
from ezo.int8.network import INPUT, Network, Node
from ezo.int8.tensor import Int8Tensor, quantize, quantize_at
from ezo.kernels import After, Layer
from ezo.models import _autoencoder
from tests.backends import ISAS, PATHS, on
from tests.oracles import int8_tiny as oracle
from tests.oracles import rounding

few = settings(max_examples=15, deadline=None)


def int8(*shape, seed, low=-127):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(low, 128, shape, dtype=torch.int8, generator=generator)
    return 127 * x.sign() if seed % 5 == 0 else x


@st.composite
def convolutions(draw):
    """(x, weight, padding, stride, groups)."""
    kind, seed = draw(st.sampled_from(["one", "depthwise", "some"])), draw(st.integers(0, 999))
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    groups = {"one": 1, "depthwise": draw(st.integers(2, 35)), "some": 2}[kind]
    own = 1 if kind == "depthwise" else draw(st.integers(1, 5))
    outputs = groups * (1 if kind == "depthwise" else draw(st.integers(1, 3)))
    sides = tuple(draw(st.integers(0, kernel[i // 2] - 1)) for i in range(4))
    h, w = (k + draw(st.integers(0, 8)) for k in kernel)
    x = int8(
        draw(st.integers(1, 2)), groups * own, h, w, seed=seed, low=draw(st.sampled_from([-127, 0]))
    )
    stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    return x, int8(outputs, own, *kernel, seed=seed + 1), sides, stride, groups


def in_float64(x, weight, sides, stride, groups):
    top, bottom, left, right = sides
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, stride=stride, groups=groups)


@few
@given(of=convolutions())
def test_a_convolution_is_the_sum_of_its_products(of):
    x, weight, *how = of
    found = ops.conv2d(*of)
    assert torch.equal(found.double(), in_float64(x.double(), weight.double(), *how))
    x, weight = x[:1, :, :6, :6], weight  # the oracle is slow
    if min(x.shape[2] - weight.shape[2], x.shape[3] - weight.shape[3]) >= 0 and weight.numel() < 60:
        wanted = oracle.convolved(x.tolist(), weight.tolist(), *how)
        found = ops.conv2d(x, weight, *how)
        assert {at: int(found[at]) for at in wanted} == wanted and len(wanted) == found.numel()


@few
@given(of=convolutions())
def test_its_errors_and_gradient_are_autograd_s(of):
    x, weight, *how = of
    wide, w = x.double().requires_grad_(), weight.double().requires_grad_()
    y = in_float64(wide, w, *how)
    err = int8(*y.shape, seed=7)
    of_x, of_w = torch.autograd.grad(y, (wide, w), err.double())
    found = ops.conv2d_error(err, weight, *how, x.shape[2:])
    assert torch.equal(found.double(), of_x)
    assert torch.equal(ops.conv2d_gradient(err, x, weight.shape[2:], *how).double(), of_w)
    layer = Layer(weight, None, 0, *how)
    wanted = kernels_on("reference", err, x, layer)
    for isa in ISAS:
        for one, other in zip(kernels_on(isa, err, x, layer), wanted, strict=True):
            assert torch.equal(one, other)


def kernels_on(path, err, x, layer):
    with on(path):
        m, s = kernels.error(err, layer, 0, None, 1, x.shape[2:])
        return m, torch.tensor(s), kernels.gradients(err, x, layer)[0]


@few
@given(of=convolutions(), relu=st.booleans(), pool=st.integers(1, 2), most=st.sampled_from([3, 62]))
def test_its_product_is_the_reference_s_on_every_instruction_set(of, relu, pool, most):
    x, weight, *how = of
    layer = Layer(weight, int8(len(weight), seed=3), 2, *how)
    if min(ops.places(x.shape[2:], weight.shape[2:], *how[:2])) < pool:
        pool = 1
    after = After(relu, pool, most=most)
    with on("reference"):
        wanted, wide = kernels.product(x, layer, after, 0), kernels.accumulators(x, layer)
    assert wanted[1] <= most
    for isa in ISAS:
        with on(isa):
            m, s, _ = kernels.product(x, layer, after, 0)
            part, need = kernels.part(x, layer, after, wanted[1])
            assert torch.equal(kernels.accumulators(x, layer), wide)
        assert torch.equal(m, wanted[0]) and s == wanted[1] == need
        assert torch.equal(part, wanted[0])


@few
@given(
    shape=st.tuples(*[st.integers(1, 5)] * 4),
    exponents=st.tuples(st.integers(-30, 5), st.integers(-30, 5)),
    relu=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_sum_is_the_oracle_s_everywhere(shape, exponents, relu, seed):
    a, b = int8(*shape, seed=seed), int8(*shape, seed=seed + 1)
    e = sums.meet(*exponents)
    left = exponents[0] - e, exponents[1] - e
    both = zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
    wide = [oracle.added(*pair, left) for pair in both]
    bits = max(map(abs, wide)).bit_length()
    assert bits < 26 and max(left) <= sums.FURTHEST
    for s in {0, max(0, bits - 7)}:
        wanted = [max(rounding.nearest(x, s), 0 if relu else -127) for x in wide]
        for path in PATHS:
            with on(path):
                m, found = kernels.add(
                    a, b.transpose(2, 3).contiguous().transpose(2, 3), left, relu, s
                )
            assert m.flatten().tolist() == wanted and found == bits, path


@few
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 4), size=st.tuples(*[st.integers(1, 4)] * 2),
    seed=st.integers(0, 999),
)  # fmt: skip
def test_a_mean_is_the_oracle_s_everywhere(shape, size, seed):
    size = min(size[0], shape[2]), min(size[1], shape[3])
    x = int8(*shape, seed=seed)
    blocks = F.unfold(x.double(), size, stride=size).unflatten(1, (shape[1], -1)).long()
    wide = [oracle.mean(one) for one in blocks.transpose(2, 3).flatten(0, 2).tolist()]
    bits = max(map(abs, wide)).bit_length()
    for s in (0, max(0, bits - 7)):
        for path in PATHS:
            with on(path):
                m, found = kernels.average(x, size, s)
            assert m.flatten().tolist() == [rounding.nearest(one, s) for one in wide], path
            assert found == bits


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 5)])
def test_the_errors_of_a_mean_are_shared_out(size):
    err = int8(2, 3, 2, 1, seed=1)
    found, k = sums.average_backward(err, (2, 3, 11, 6), size)
    n = size[0] * size[1]
    assert 1 << k <= n < 2 << k
    for y in range(11):
        for x in range(6):
            i, j = y // size[0], x // size[1]
            inside = i < 2 and j < 1
            wanted = [
                oracle.rounded(oracle.Fraction(int(e) << k, n)) if inside else 0
                for e in (err[:, :, i, j].flatten() if inside else torch.zeros(6))
            ]
            assert found[:, :, y, x].flatten().tolist() == wanted


# Layers


def test_a_bounded_relu_clips_at_6_and_lets_no_error_through_beyond():
    assert [ceiling(e, 6) for e in (-6, -5, -4, -1, 0, 2, 3, 9)] == [127, 127, 96, 12, 6, 1, 1, 1]
    for e in range(-20, 3):
        s = shift_within(e, 6)
        assert 127 * 2.0 ** (e + s) >= 6 and (s == 0 or 127 * 2.0 ** (e + s - 1) < 6)
    layer = ReLU6()
    layer.keeping = True
    y = layer.forward(Int8Tensor(torch.tensor([[-9, 0, 5, 95, 96, 97]], dtype=torch.int8), -4))
    assert y.m.tolist() == [[0, 0, 5, 95, 96, 96]]
    err = layer.backward(Int8Tensor(torch.full((1, 6), 3, dtype=torch.int8), -7))
    assert err.m.tolist() == [[0, 0, 3, 3, 0, 0]]


@pytest.mark.parametrize("path", PATHS)
def test_a_relu6_after_a_layer_costs_it_no_precision(path):
    w = Int8Tensor(torch.full((1, 2), 127, dtype=torch.int8), -7)
    net = Network([Linear(w, None), ReLU6(), Linear(Int8Tensor(torch.ones(1, 1).char(), 0), None)])
    x = Int8Tensor(torch.tensor([[127, 127], [1, 1], [-3, -3]], dtype=torch.int8), -2)
    with on(path):
        y = net(x)  # values 63, 0.5 and -1.5
    assert y.e == -4 and y.m.flatten().tolist() == [96, 8, 0]


def residual():
    """Two branches from one value, one of which goes two ways again."""
    return nn.Sequential(
        nn.Conv2d(2, 5, 3, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU6(), Branches(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.depthwise = nn.Conv2d(5, 5, (3, 1), padding="same", groups=5)
        self.norm, self.wide = nn.BatchNorm2d(5), nn.Conv2d(5, 4, 1, bias=False)
        self.other = nn.Conv2d(5, 4, 3, padding=1)

    def forward(self, x):
        inner = x + F.relu6(self.norm(self.depthwise(x)))
        outer = self.wide(inner)
        outer += self.other(x)
        return torch.relu(outer)


def with_numbers(model, seed=0):
    """Weights and statistics that torch's generator does not choose."""
    for i, t in enumerate([*model.parameters(), *model.buffers()]):
        if t.is_floating_point():
            n = torch.arange(t.numel(), dtype=torch.float64) + 7 * i + seed
            spread = n * 0.6180339887 % 1
            bound = (3 / max(t[0].numel(), 1)) ** 0.5
            t.data = (
                (0.5 + spread if t.dim() == 1 else (2 * spread - 1) * bound).float().view(t.shape)
            )
    return model.eval()


def batch(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near(net, model, x):
    with torch.no_grad():
        wanted = model(x)
    return float((net(quantize(x)).to_float() - wanted).std() / wanted.std())


def test_branches_are_followed_and_batch_norm_is_folded_and_said():
    model = with_numbers(residual())
    net = from_float(model)
    assert [(node.name, *node.inputs) for node in net.nodes] == [
        ("0", "input"),
        ("2", "0"),
        ("3.depthwise", "2"),
        ("3.relu6", "3.depthwise"),
        ("3.add", "2", "3.relu6"),
        ("3.wide", "3.add"),
        ("3.other", "2"),
        ("3.add_1", "3.wide", "3.other"),
        ("3.relu", "3.add_1"),
        ("4", "3.relu"),
        ("5", "4"),
        ("6", "5"),
    ]
    assert net.folded == (("1", "0"), ("3.norm", "3.depthwise"))
    assert net.layers[2].padding == (1, 1, 0, 0) and net.layers[2].groups == 5
    assert near(net, model, batch(16, 2, 9, 8)) < 0.08
    with pytest.warns(UserWarning, match="batch norm is folded.*1 into 0, 3.norm into 3.depthwise"):
        from_float(model.train())


def test_folding_is_by_the_running_statistics_and_makes_a_bias():
    model = with_numbers(
        nn.Sequential(nn.Linear(6, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))
    )
    net = from_float(model)
    assert net.layers[0].bias is not None and near(net, model, batch(64, 6)) < 0.05
    model[0].weight.requires_grad_(False)
    assert from_float(model).layers[0].frozen == {"weight", "bias"}

    class Function(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = model

        def forward(self, x):
            norm = self.steps[1]
            x = F.linear(x, self.steps[0].weight)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, norm.weight, bias=norm.bias)
            return self.steps[3](x.relu())

    state = from_float(Function().eval()).state_dict()
    assert checkpoint.digest(state) == checkpoint.digest(net.state_dict())


class Twice(nn.Module):
    """Batch norm on a value that another takes too."""

    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.a(x)
        return self.b(self.norm(x) + x)


def test_a_batch_norm_that_can_t_be_folded_is_named():
    with pytest.raises(ValueError, match="norm, BatchNorm1d.*output nothing else takes"):
        from_float(Twice())
    without = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    with pytest.raises(ValueError, match="running statistics"):
        from_float(without.append(nn.Linear(2, 2)))


def test_shapes_that_don_t_meet_are_named():
    first, last = (Linear(Int8Tensor(int8(*of, seed=1), 0), None) for of in ((3, 2), (2, 3)))
    nodes = [Node(first, (INPUT,), "a"), Node(Add(), ("a", INPUT), "sum")]
    net = Network([*nodes, Node(last, ("sum",), "b")])
    with pytest.raises(ValueError, match=r"one shape to add up, got \(4, 3\) and \(4, 2\)"):
        net(Int8Tensor(int8(4, 2, seed=1), 0))
    with pytest.raises(ValueError, match="3 x 3 positions or more to average, got 2 x 9"):
        AvgPool2d((3, 3))(Int8Tensor(int8(1, 1, 2, 9, seed=1), 0))


def model_of(name):
    if name == "residual":
        return residual(), (2, 9, 8)
    small = {"resnet8": (3, 8, 8), "ds_cnn": (1, 12, 10), "mobilenet_v1_025": (3, 32, 32)}[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return catalogue.find("model", name).build(name, 3, small[0]), small


NAMES = ("residual", "resnet8", "ds_cnn", "mobilenet_v1_025")


def steps(net, x, y, bp, n=2):
    """Digest and losses of some steps; with every layer's kinds of gradients where ``bp`` says."""
    how = {"rate": 3000, "mu": 3, "fraction": True, "bp_gradient": "mean" if bp else "plus"}
    optimizer = ElasticZO(net, bp, noise=SparseNoise(15, 0.25), seed=5, **how)
    losses = [optimizer.step(lambda: Loss(net(x), y)).total() for _ in range(n)]
    return checkpoint.digest(net.state_dict()), losses


@pytest.mark.parametrize("name", NAMES)
def test_steps_have_the_same_bits_on_every_path_and_in_chunks(name):
    model, shape = model_of(name)
    fresh = from_float(with_numbers(model), headroom=15)
    x, y = quantize(batch(5, *shape)), torch.arange(5) % 3
    for bp in (0, 2) if name != "residual" else (0, 1, 3, "all"):
        with on("reference"):
            wanted = steps(copy.deepcopy(fresh), x, y, bp)
        for path in PATHS[1:]:
            with on(path):
                assert steps(copy.deepcopy(fresh), x, y, bp) == wanted, path
        chunked = copy.deepcopy(fresh)
        chunked.chunk = 2
        assert steps(chunked, x, y, bp) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_networks_are_near_to_float_and_are_saved_with_what_they_calibrated(name):
    model, shape = model_of(name)
    model = model.eval() if name != "residual" else with_numbers(model)
    net, x = from_float(model), batch(16, *shape)
    assert near(net, model, x) < 0.3  # seven bits at each of up to 28 layers
    wanted = net(quantize(x))
    net.calibrate(quantize(x)).eval()
    found = net(quantize_at(x, net.input_exponent))
    assert torch.equal(found.m, wanted.m) and found.e == wanted.e
    again = from_float(model).eval()
    again.load_state_dict(net.state_dict())
    one = again(quantize_at(x[:1], again.input_exponent))
    assert torch.equal(one.m, wanted.m[:1])
    assert checkpoint.digest(again.state_dict()) == checkpoint.digest(net.train().state_dict())


@pytest.mark.parametrize("path", PATHS[:2])
def test_backward_through_branches_points_where_autograd_s_does(path):
    model = with_numbers(residual())
    net, x, y = from_float(model), batch(64, 2, 9, 8), torch.arange(64) % 3
    loss = F.cross_entropy(model(x), y, reduction="sum")
    model.zero_grad()
    loss.backward()
    with on(path):
        net.keep(5)
        of = Loss(net(quantize(x)), y)
        net.backward(of.gradient(torch.full((64, 3), 8)), 5)
    floats = {"6": model[6], "3.other": model[3].other, "3.wide": model[3].wide}
    for name, module in floats.items():
        (layer,) = [node.layer for node in net.nodes if node.name == name]
        found, wanted = layer.weight_gradient.m.double(), module.weight.grad.double()
        assert F.cosine_similarity(found.flatten(), wanted.flatten(), 0) > 0.9, name
    # of folded ones the direction is the channel's own, up to a positive factor
    for name, module in {"3.depthwise": model[3].depthwise, "0": model[0]}.items():
        (layer,) = [node.layer for node in net.nodes if node.name == name]
        for found, wanted in zip(layer.weight_gradient.m.double(), module.weight.grad, strict=True):
            alike = F.cosine_similarity(found.flatten(), wanted.double().flatten(), 0)
            assert alike > 0.8 or wanted.norm() < 0.05 * module.weight.grad.norm(), name


@pytest.mark.parametrize("bp", [0, 1])
def test_a_residual_network_learns(bp):
    torch_model, shape = model_of("resnet8")
    net = from_float(torch_model.eval(), headroom=15)
    x, y = batch(24, *shape), torch.arange(24) % 3
    x += y.view(-1, 1, 1, 1) - 1.0
    x = quantize(x)
    how = {"rate": 60_000, "mu": 2, "magnitude": "absolute", "fraction": True}
    optimizer = ElasticZO(net, bp, seed=1, **how)
    losses = [optimizer.step(lambda: Loss(net(x), y)).mean() for _ in range(60)]
    assert sum(losses[-5:]) < (0.9 if bp == 0 else 0.5) * sum(losses[:5])


# Squared errors


@pytest.mark.parametrize("e", [-40, -24, -9, -3, 0, 4])
@pytest.mark.parametrize("f", [-20, -6, 0, 3])
def test_a_squared_error_keeps_its_bound(e, f):
    generator = torch.Generator().manual_seed(e * 100 + f)
    large = min(2**31 - 1, 2 ** max(4 - e, 0))
    a = torch.randint(-large, large + 1, (20, 9), generator=generator)
    t = torch.randint(-127, 128, (20, 9), generator=generator).clamp(
        -(2 ** (4 - f)) if f < 4 else 0, 2 ** (4 - f)
    )
    loss = SquaredError(Int8Tensor(a.to(torch.int32), e), Int8Tensor(t.to(torch.int8), f))
    for found, output, target in zip(
        loss.per_example().tolist(), a.tolist(), t.tolist(), strict=True
    ):
        wanted = float(oracle.squared_error(output, e, target, f))
        assert abs(found / 2**20 - wanted) <= 2**-14 * wanted**0.5 + 2**-19
    assert loss.total() == int(loss.per_example().sum()) and loss.examples == 20
    gradient = loss.gradient(torch.full((20, 9), 1 << 40))
    d = a.double() * 2.0**e - t.double() * 2.0**f
    assert (gradient.to_float() - d).abs().max() <= 2.0**gradient.e + 2**-14
    if d.abs().max() > 2**-7:
        assert 63 <= gradient.m.abs().max() <= 127


def test_differences_beyond_the_bound_are_held_there():
    loss = SquaredError(Int8Tensor(torch.tensor([[2**31 - 1, 0]], dtype=torch.int32), 20),
                        Int8Tensor(torch.tensor([[0, -127]], dtype=torch.int8), 9))  # fmt: skip
    assert loss.mean() == 1024.0 and loss.gradient(torch.zeros(1, 2).long()).m.tolist() == [
        [64, 64]
    ]


def test_a_target_that_does_not_fit_is_named():
    output = Int8Tensor(torch.zeros(2, 3, dtype=torch.int32), 0)
    with pytest.raises(ValueError, match=r"output's shape, \(2, 3\).* got \(2, 4\)"):
        SquaredError(output, Int8Tensor(torch.zeros(2, 4, dtype=torch.int8), 0))
    with pytest.raises(ValueError, match="expected an Int8Tensor as target, got Tensor"):
        SquaredError(output, torch.zeros(2, 3))


@pytest.mark.parametrize("bp", [1, 3])
def test_an_autoencoder_learns_by_its_squared_error_alike_on_every_path(bp):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _autoencoder.build(24).eval()
    x = quantize(batch(16, 3) @ batch(3, 24, seed=2))
    found = []
    for path in PATHS[:2]:
        net = from_float(model, headroom=15)
        how = {"rate": 60_000, "mu": 3, "magnitude": "absolute", "fraction": True, "seed": 2}
        optimizer = ElasticZO(net, bp, **how)
        with on(path):
            closure = functools.partial(lambda net: SquaredError(net(x), x), net)
            losses = [optimizer.step(closure).mean() for _ in range(20)]
        assert losses[-1] < 0.8 * losses[0] and "." in repr(SquaredError(net(x), x))
        found.append((checkpoint.digest(net.state_dict()), losses))
    assert all(one == found[0] for one in found)


# Export


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([nn.Conv2d(2, 2, 3, stride=2)], r"layer 0, Conv2d with .* a stride of \(2, 2\)"),
        ([nn.Conv2d(2, 2, 3, groups=2)], "layer 0, Conv2d with .* 2 groups"),
        ([nn.Conv2d(2, 2, (3, 1))], "layer 0, Conv2d with a kernel of 3 x 1"),
        ([nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(2, 2, 3)], r"a padding of \(0, 1, 0, 1\)"),
        ([nn.Conv2d(2, 2, 3), nn.ReLU6()], "layer 1, ReLU6"),
        ([nn.Conv2d(2, 2, 3), nn.AvgPool2d(2)], "layer 1, AvgPool2d"),
    ],
)
def test_what_has_no_c_form_is_refused_by_name(layers, words):
    features = nn.Sequential(*layers, nn.Flatten())(torch.zeros(1, 2, 8, 8)).shape[1]
    net = from_float(nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 2)).eval())
    with pytest.raises(ValueError, match=f"can't export .*{words}"):
        describe(net, None, quantize(batch(2, 2, 8, 8)))


def test_a_sum_has_no_c_form():
    w = Int8Tensor(int8(2, 2, seed=1), 0)
    nodes = [Node(Linear(w, None), (INPUT,), "a"), Node(Add(), ("a", INPUT), "sum")]
    net = Network([*nodes, Node(Linear(w, None), ("sum",), "b")])
    with pytest.raises(ValueError, match="can't export layer sum, Add of a and input: .* chain"):
        describe(net, None, Int8Tensor(int8(3, 2, seed=2), 0))


@pytest.mark.parametrize(
    ("name", "classes", "numbers"),
    [
        ("resnet8", 10, 78_666),
        ("ds_cnn", 12, 24_908),
        ("mobilenet_v1_025", 2, 221_794),
        ("autoencoder", 0, 269_992),
    ],
)
def test_networks_have_as_many_numbers_as_mlperf_tiny_s(name, classes, numbers):
    """Keras's have a bias before each batch norm, too, but in the autoencoder's linear layers."""
    model = (
        catalogue.find("model", name).build(name, classes, 1 if name == "ds_cnn" else 3)
        if classes
        else _autoencoder.build()
    )
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    statistics = sum(2 * m.num_features for m in norms)
    bias = sum(m.num_features for m in norms if classes)
    assert sum(p.numel() for p in model.parameters()) + statistics + bias == numbers
