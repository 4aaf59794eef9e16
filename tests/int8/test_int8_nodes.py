"""Node perturbation in integers: its update, its noise, its gradient, and what a step runs."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ezo import kernels, noise
from ezo.checkpoint import digest
from ezo.int8 import ElasticZO, Int8Tensor, Loss, Nodes, SparseNoise, from_float, ops, quantize
from ezo.int8.network import Network
from ezo.int8.nodes import LOGIT_EXPONENT, STREAM, rate_of, signs
from ezo.kernels import Layer, NodeRates, Rate, Seen
from ezo.models import pointnet
from tests.backends import PATHS, on
from tests.oracles import int8_nodes as oracle
from tests.oracles.philox import words_of

PLACE = (0x0123456789ABCDEF, 17, STREAM)
SPARSE = (0, 1, 3)
NOISE = SparseNoise(r_max=7, p_zero=0.0)
few = settings(max_examples=20, deadline=None)


def int8(*shape, seed, low=-127):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, 128, shape, dtype=torch.int8, generator=generator)


def network(*sizes, seed=0, bias=True):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for i, o in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(i, o, bias=bias), nn.ReLU()]
        return from_float(nn.Sequential(*layers[:-1]), headroom=7)


def convolutional(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
        parts += [nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 4)]
        return from_float(nn.Sequential(*parts), headroom=7)


def points(bias=True):
    """A network whose first layer with nodes is before a maximum over points."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        model = pointnet.build("pointnet", classes=4)
        layers = [nn.Conv1d(3, 5, 1), nn.ReLU(), nn.Conv1d(5, 20, 1, bias=bias), nn.ReLU()]
        model.points = nn.Sequential(*layers, pointnet.MaxOverPoints())
        model.head = nn.Linear(20, 4)
        return from_float(model, headroom=7)


KINDS = {
    "perceptron": (lambda: network(12, 20, 4), Int8Tensor(int8(9, 12, seed=1), -6)),
    "without bias": (lambda: network(12, 20, 4, bias=False), Int8Tensor(int8(9, 12, seed=1), -6)),
    "convolution": (convolutional, Int8Tensor(int8(9, 1, 4, 4, seed=2), -6)),
    "points": (points, Int8Tensor(int8(6, 11, 3, seed=3), -6)),
}


def labels(x):
    return torch.arange(len(x.m)) % 4


def train(kind, steps=3, bp=0, eval_mode=False, **how):
    """Losses, and a digest of weights and fractions."""
    make, x = KINDS[kind]
    model, y = make(), labels(x)
    if eval_mode:
        model.calibrate(x).eval()
    how = {"rate": 100_000, "magnitude": "absolute", "nodes": Nodes(rate=200_000), **how}
    optimizer = ElasticZO(model, bp, noise=NOISE, **how)
    losses = [optimizer.step(lambda: Loss(model(x), y)).total() for _ in range(steps)]
    fractions = {
        str(i): optimizer.state[p]["fraction"]
        for i, p in enumerate(model.parameters())
        if p in optimizer.state
    }
    return losses, digest({**model.state_dict(), **fractions})


@few
@given(
    n=st.integers(1, 40),
    inputs=st.sampled_from([1, 3, 17, 64, 70]),
    units=st.sampled_from([1, 2, 14, 15, 29]),
    kind=st.sampled_from(["relu", "plain", "points"]),
    bias=st.booleans(),
    fraction=st.booleans(),
    up=st.integers(0, 20),
    seed=st.integers(0, 999),
)
def test_an_update_is_the_oracle_s(n, inputs, units, kind, bias, fraction, up, seed):
    weight, b = int8(units, inputs, seed=seed), int8(units, seed=seed + 1) if bias else None
    d, y = int8(n, seed=seed + 3), None
    where, x = None, int8(n, inputs, seed=seed + 2)
    if kind == "relu":
        y = int8(n, units, seed=seed + 4, low=-127 if seed % 2 else 0)
    if kind == "points":
        x = int8(n, 4, inputs, seed=seed + 2)
        where = int8(n, units, seed=seed + 5, low=0).to(torch.int32) % 4
    own = [p for p in (weight, b) if p is not None]
    fractions = [int8(*p.shape, seed=9).view(torch.uint8) if fraction else None for p in own]
    rates = NodeRates(Rate(40_001, up + 16), Rate(77, up), Rate(40_001, up + 9))
    drawn = (PLACE, 5, seed % 3)
    z = signs(drawn, n * units).view(n, units)
    rows = [[x[i] if where is None else x[i, where[i, u]] for u in range(units)] for i in range(n)]

    def pairs(p, f):
        if p.dim() > 1:
            return [pairs(q, None if f is None else f[u]) for u, q in enumerate(p)]
        return list(zip(p.tolist(), [None] * len(p) if f is None else f.tolist(), strict=True))

    wanted = oracle.update(
        pairs(weight, fractions[0]),
        None if b is None else pairs(b, fractions[1]),
        [[of.tolist() for of in row] for row in rows],
        z.tolist(),
        d.tolist(),
        [[1] * units] * n if y is None else (y > 0).int().tolist(),
        rates,
    )
    for path in PATHS:
        of = [p.clone() for p in own]
        finer = [None if f is None else f.clone() for f in fractions]
        with on(path):
            kernels.node_update(Layer(*of), finer, Seen(x, y, where), d, drawn, rates)
        found = [pairs(p, f) for p, f in zip(of, finer, strict=True)]
        assert found == [part for part in wanted if part is not None], path


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("sparse", SPARSE)
def test_noise_is_the_stream_s_and_that_of_pass_and_update(path, sparse):
    """An update from inputs of which each example has its own shows the signs."""
    n, units = 40, 300  # more than a group of words
    seed, step, stream = PLACE
    y = torch.zeros(n, units, dtype=torch.int8)
    x = torch.eye(n, dtype=torch.int8)
    weight = torch.zeros(units, n, dtype=torch.int8)
    one = NodeRates(Rate(1, 0), Rate(1, 0), Rate(1, 0))
    with on(path):
        kernels.node_shift(y, (PLACE, 6, sparse), 1, False)
        d = torch.full((n,), -1, dtype=torch.int8)
        kernels.node_update(Layer(weight), [None], Seen(x), d, (PLACE, 6, sparse), one)
    assert torch.equal(weight.t(), y)
    for i in (*range(40), 2047, 2048, n * units - 1):
        of, word = words_of(i // 8, seed, step, 6, stream)
        bits = of[word] >> (4 * (i % 8))
        off = any(bits >> (1 + k) & 1 for k in range(sparse))
        assert y.flatten()[i] == (0 if off else -1 if bits & 1 else 1)
    assert abs(float(y.abs().double().mean()) - 2.0**-sparse) < 0.02


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("relu", [False, True])
def test_a_shifted_output_is_clipped_to_its_type(path, relu):
    for dtype, most in ((torch.int8, 127), (torch.int32, 2**31 - 1)):
        for by in (3, -3):
            y = torch.tensor([-most, -1, 0, 2, most] * 20, dtype=dtype)
            wanted = y.to(torch.int64) + by * signs((PLACE, 0, 0), len(y))
            with on(path):
                kernels.node_shift(y, (PLACE, 0, 0), by, relu)
            assert torch.equal(y.to(torch.int64), wanted.clamp(0 if relu else -most, most))


def test_noise_is_independent_between_examples_layers_steps_queries_and_seeds():
    units = 256
    rows = [
        signs(((seed, step, STREAM + query), tensor, 0), 4 * units).view(4, units)
        for seed in (1, 2)
        for step in (0, 1)
        for query in (0, 1)
        for tensor in (0, 2)
    ]
    z = torch.cat(rows).double()
    cosines = (z @ z.T / units).abs() - torch.eye(len(z), dtype=torch.float64)
    assert cosines.max() < 6 / units**0.5
    assert z.mean().abs() < 4 / z.numel() ** 0.5
    others = noise.words(1, 0, 0, 0, 0, 1, "cpu"), noise.words(1, 0, 0, 1 << 31, 0, 1, "cpu")
    ours = noise.words(1, 0, 0, STREAM, 0, 1, "cpu")
    assert all(not torch.equal(ours, other) for other in others)


@pytest.mark.parametrize("sparse", [0, 2])
def test_mean_over_many_draws_is_the_integer_gradient(sparse):
    """Along each layer's backpropagated one, of its size, within what so few draws are off.

    Of G, the mean over i of d_i n_i x_i', a layer's part has a variance of about the sum over i of
    E[d_i^2] U |x_i|^2 / N^2, which the draws themselves show.
    """
    model = network(10, 12, 4, bias=False)
    x, y = Int8Tensor(int8(16, 10, seed=5), -6), torch.arange(16) % 4
    model.keep(2)
    p = torch.softmax(model(x).to_float().double(), 1) - torch.eye(4, dtype=torch.float64)[y]
    model.backward(Int8Tensor((p * 64).round().to(torch.int8), -6), 2)
    wanted = [g.weight_gradient.m * 2.0**g.weight_gradient.e for g in model.weighted()]
    model.keep(0)
    draws, totals, squares = 600, [0.0, 0.0], [0.0, 0.0]
    for layer in model.weighted():
        layer.weight_gradient = None
    optimizer = ElasticZO(model, 0, nodes=Nodes(rate=0, sparse=sparse), seed=3)
    nodes = {}
    for k, layer in enumerate(model.weighted()):
        forward = layer.forward

        def kept(*given, k=k, layer=layer, forward=forward):
            found = forward(*given)
            nodes[k] = layer.node
            return found

        layer.forward = kept
    for step in range(draws):
        optimizer.step(lambda: Loss(model(x), y))
        (update,) = optimizer.applied[0]
        for k in (0, 1):
            seen, (e_x, e_y) = nodes[k].seen, nodes[k].exponents
            units = len(wanted[k])
            z = signs(((3, step, STREAM), k, sparse), 16 * units).view(16, units)
            e = z.int() * update.differences.int()[:, None]
            if seen.y is not None:
                e = e * (seen.y > 0)
            slope = e.T.double() @ seen.x.double() * 2.0 ** (e_x - e_y - 8 + sparse) * 0.6931
            totals[k] += slope
            squares[k] += float(slope.square().sum())
    for k in (0, 1):
        mean, size = totals[k] / draws, float(wanted[k].norm())
        error = (squares[k] / draws) ** 0.5 / draws**0.5
        along = float((mean * wanted[k]).sum()) / size**2
        assert abs(along - 1) < 0.1 + 3 * error / size, (k, along)
        assert float((mean - along * wanted[k]).norm()) < 1.3 * error + 0.15 * size, k


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "how",
    [
        {"fraction": True},
        {"fraction": False, "bp": 1, "queries": 2},
        {"fraction": True, "bp": 1, "bp_gradient": "unperturbed"},
        {"fraction": True, "eval_mode": True},
    ],
)
def test_every_path_and_number_of_threads_ends_in_the_same_bits(kind, how):
    threads, found = torch.get_num_threads(), set()
    try:
        for path in PATHS:
            for torch_threads in (1, 3):
                torch.set_num_threads(torch_threads)
                with on(path):
                    found.add(str(train(kind, **how)))
    finally:
        torch.set_num_threads(threads)
    assert len(found) == 1


def test_no_backward_code_is_run_without_a_bp_layer(monkeypatch):
    def refuse(*_):
        raise AssertionError("backward code")

    for name in ("error", "gradients", "bp_update", "loss_error", "max_pool2d_backward"):
        monkeypatch.setattr(kernels, name, refuse)
    for name in ("linear_error", "conv2d_gradient", "conv2d_error"):
        monkeypatch.setattr(ops, name, refuse)
    monkeypatch.setattr(Network, "backward", refuse)
    monkeypatch.setattr(Loss, "error", refuse)
    for kind in KINDS:
        for path in ("reference", ""):
            with on(path):
                train(kind, fraction=True)
    with pytest.raises(AssertionError, match="backward code"):
        train("perceptron", bp=1)


def test_it_learns_from_forward_passes_alone():
    g = torch.Generator().manual_seed(9)
    y = torch.arange(32) % 4
    x = quantize(2 * torch.randn(4, 12, generator=g)[y] + torch.randn(32, 12, generator=g))
    model = network(12, 24, 16, 4)
    for layer in model.weighted():
        layer.make_room(1)
        layer.make_bias_room(6)
    nodes = Nodes(rate=60_000)
    optimizer = ElasticZO(model, 0, nodes=nodes, fraction=True)
    losses = [optimizer.step(lambda: Loss(model(x), y)).mean() for _ in range(150)]
    assert sum(losses[-10:]) < 0.2 * sum(losses[:10])


def test_state_dict_goes_on_to_the_same_bits():
    def made():
        model = convolutional()
        nodes = Nodes(rate=200_000)
        return model, ElasticZO(model, 1, noise=NOISE, nodes=nodes, fraction=True, queries=2)

    x = KINDS["convolution"][1]
    model, optimizer = made()

    def step(model, optimizer):
        return optimizer.step(lambda: Loss(model(x), labels(x))).total()

    step(model, optimizer)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    wanted = [step(model, optimizer) for _ in range(2)], digest(model.state_dict())
    again, other = made()
    again.load_state_dict(saved[0])
    other.load_state_dict(saved[1])
    assert ([step(again, other) for _ in range(2)], digest(again.state_dict())) == wanted
    plain = ElasticZO(convolutional(), 1, noise=NOISE, fraction=True, queries=2)
    with pytest.raises(ValueError, match="expected a state dict of"):
        plain.load_state_dict(saved[1])


def test_nothing_is_left_after_a_step_or_an_exception():
    model = convolutional()
    x = KINDS["convolution"][1]
    before = digest(model.state_dict())
    optimizer = ElasticZO(model, 0, noise=NOISE, nodes=True)
    clean = model(x).m

    def fails():
        model(x)
        raise RuntimeError("closure")

    with pytest.raises(RuntimeError, match="closure"):
        optimizer.step(fails)
    assert digest(model.state_dict()) == before and torch.equal(model(x).m, clean)
    for group in optimizer.param_groups:
        group["rate"] = 0
    optimizer.step(lambda: Loss(model(x), labels(x)))
    assert digest(model.state_dict()) == before and torch.equal(model(x).m, clean)
    assert all(layer.node is None for layer in model.weighted())


def test_a_layer_with_a_frozen_part_meets_no_noise_and_stays():
    model = network(12, 20, 4)
    model.weighted()[0].frozen = frozenset({"bias"})
    x, y = KINDS["perceptron"][1], torch.arange(9) % 4
    before = [p.clone() for p in model.parameters()]
    optimizer = ElasticZO(model, 0, nodes=Nodes(rate=1 << 24))
    optimizer.step(lambda: Loss(model(x), y))
    same = [torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True)]
    assert same == [True, True, False, False]


def test_which_layers_have_nodes():
    def numbers(make, bp=0, nodes=True):
        return [number for number, _ in ElasticZO(make(), bp, nodes=nodes)._node_layers]

    assert numbers(convolutional) == [1, 2] and numbers(convolutional, bp=1) == [1]
    assert numbers(points) == [1, 2]
    assert numbers(convolutional, nodes=Nodes(layers=["4"])) == [1]
    for nodes, message in (
        (Nodes(layers=["0"]), "that can have them, 4, 6, got '0'"),
        (Nodes(sigma=64), "sigma"),
        (Nodes(rate=-1), "rate"),
        (3, "True, False or ezo.int8.Nodes, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            ElasticZO(convolutional(), 0, nodes=nodes)


def test_what_nodes_cant_learn_from_is_told():
    model = network(12, 20, 4)
    x, y = KINDS["perceptron"][1], torch.arange(9) % 4
    optimizer = ElasticZO(model, 0, nodes=True)
    half = Int8Tensor(x.m[:4], x.e)

    def other():
        loss = Loss(model(x), y)
        model(half)
        return loss

    with pytest.raises(ValueError, match=r"9 of them, got 4 in a layer with nodes"):
        optimizer.step(other)
    optimizer.step(lambda: Loss(model(x), y))
    with pytest.raises(ValueError, match="weights alone with a replay"):
        optimizer.replay(optimizer.applied)


@few
@given(rate=st.integers(0, 1 << 24), divisor=st.integers(1, 1 << 20), exponent=st.integers(-60, 10))
def test_a_rate_is_as_precise_as_its_multiplier(rate, divisor, exponent):
    times, shift = rate_of(rate, divisor, exponent)
    wanted = rate / divisor * 2.0**exponent
    assert 0 <= shift <= 62 and times < 1 << 24
    if times == 0:
        assert wanted < 2.0**-40
    elif wanted < 200:
        assert times / 2**shift == pytest.approx(wanted, rel=2**-14)


def test_noise_on_the_logits_does_not_depend_on_the_batch():
    model = network(12, 4)
    x = KINDS["perceptron"][1]
    plain = model(x)
    optimizer = ElasticZO(model, 0, nodes=Nodes(rate=0, sigma=2))
    seen = []
    optimizer.step(lambda: seen.append(Loss(model(x), torch.arange(9) % 4)) or seen[-1])
    shift = 2 << (LOGIT_EXPONENT - plain.e)
    assert torch.equal((seen[0].logits.m - plain.m).abs(), torch.full_like(plain.m, shift))
    assert torch.equal(seen[0].logits.m + seen[1].logits.m, 2 * plain.m)
