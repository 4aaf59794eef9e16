"""The compiled kernels: the reference's bits on every instruction set and any threads; clean under
the sanitizers."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ezo
from ezo import kernels, noise
from ezo.checkpoint import digest
from ezo.int8 import loss
from ezo.int8.convert import from_float
from ezo.int8.layers import Linear
from ezo.int8.maps import MaxOverPoints, ReLU
from ezo.int8.network import Network as Integers
from ezo.int8.optim import ElasticZO
from ezo.int8.perturb import SparseNoise
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.kernels import After, Layer
from ezo.models import lenet5, pointnet
from tests import sweeps
from tests.backends import ISAS, on

pytestmark = pytest.mark.skipif(not ISAS, reason="no compiled kernels")
PLACE = {"seed": 0x0123456789ABCDEF, "step": 17}
few = settings(max_examples=25, deadline=None)
sizes = st.integers(1, 9)


def int8(*shape, seed, low=-127):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(low, 128, shape, dtype=torch.int8, generator=generator)
    return 127 * x.sign() if seed % 5 == 0 else x  # the largest sums, at times


def layers(kind, channels, outputs, seed, *, kernel=3, padding=1, pool=2):
    """A float model whose integer form is one fused stage, and the logits after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "convolution":
            convolution = nn.Conv2d(channels, outputs, kernel, padding=padding, bias=seed % 2 == 0)
            more = [nn.MaxPool2d(pool)] if pool > 1 else []
            return [convolution, *([nn.ReLU()] if seed % 3 else []), *more, nn.Flatten()]
        return [nn.Linear(channels, outputs, bias=seed % 2 == 0), *([nn.ReLU()] * (seed % 3 > 0))]


def same(model, x):
    """The model's int32 logits on every path are the reference's; returns them."""
    with on("reference"):
        wanted = model(x)
    for isa in ISAS:
        for layer in model.weighted():
            layer.shift = 0
        for again in (False, True):  # the second time with the shift of the first
            with on(isa):
                found = model(x)
            assert found.e == wanted.e and torch.equal(found.m, wanted.m), (isa, again)
    return wanted.m


@few
@given(
    shape=st.tuples(sizes, sizes, sizes, sizes),
    outputs=st.integers(1, 40),
    kernel=st.sampled_from([1, 2, 3, 5]),
    pool=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_a_convolution_with_what_follows_is_the_reference_s(shape, outputs, kernel, pool, seed):
    n, c, h, w = shape
    padding = kernel // 2
    h, w = max(h, kernel, pool + kernel), max(w, kernel, pool + kernel)
    stage = layers("convolution", c, outputs, seed, kernel=kernel, padding=padding, pool=pool)
    features = nn.Sequential(*stage)(torch.zeros(1, c, h, w)).shape[1]
    model = from_float(nn.Sequential(*stage, nn.Linear(features, 3)))
    x = int8(n, c, h, w, seed=seed, low=-127 if seed % 2 else 0)
    same(model, Int8Tensor(x, -seed % 7))
    same(model, Int8Tensor(x.transpose(2, 3).contiguous().transpose(2, 3), -7))


def test_a_large_batch_is_put_in_the_kernels_order_by_their_own_threads():
    """torch's copy would wake threads of its own, which spin on the cores of the kernels'."""
    x, layer = int8(12, 3, 64, 64, seed=1), Layer(int8(8, 3, 3, 3, seed=2), padding=1)
    after, before = After(True, 1, False), torch.get_num_threads()
    with on("reference"):
        wanted = kernels.product(x, layer, after, 7)[0]
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with Operations() as ran:
                found = kernels.product(x, layer, after, 7)[0]
            assert ran.names == {"empty", "empty_like"}
            assert torch.equal(found, wanted)
    finally:
        torch.set_num_threads(before)


class Operations(TorchDispatchMode):
    """Notes the names of torch's operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))


@few
@given(
    rows=st.integers(1, 70),
    inputs=st.integers(1, 70),
    outputs=st.integers(1, 40),
    seed=st.integers(0, 999),
)
def test_a_linear_layer_is_the_reference_s(rows, inputs, outputs, seed):
    model = from_float(
        nn.Sequential(*layers("linear", inputs, outputs, seed), nn.Linear(outputs, 3))
    )
    x = int8(rows, inputs, seed=seed, low=-127 if seed % 2 else 0)
    same(model, Int8Tensor(x, -7))
    same(model, Int8Tensor(x.t().contiguous().t(), -7))


@pytest.mark.parametrize("batch, points", [(1, 1), (2, 37), (3, 300)])
def test_a_maximum_over_points_is_the_reference_s(batch, points):
    model = from_float(pointnet.build("pointnet", classes=5))
    same(model, quantize(torch.randn(batch, points, 3, generator=torch.Generator().manual_seed(1))))


@few
@given(
    batch=st.integers(1, 3),
    points=st.integers(1, 250),
    outputs=st.integers(1, 40),
    inputs=st.sampled_from([1, 5, 400]),  # 400: tiles of 81 points
    relu=st.booleans(),
    seed=st.integers(0, 999),
)
def test_backward_through_a_maximum_over_points_is_the_reference_s(
    batch, points, outputs, inputs, relu, seed
):
    def linear(o, i, place):
        return Linear(Int8Tensor(int8(o, i, seed=seed + place), -7), Int8Tensor(int8(o, seed=7), 0))

    model = Integers(
        [
            linear(inputs, 3, 0),
            linear(outputs, inputs, 1),
            *([ReLU()] if relu else []),
            MaxOverPoints(),
            linear(3, outputs, 2),
        ]
    )
    x = Int8Tensor(int8(batch, points, 3, seed=seed) // (1 if seed % 2 else 100), -7)  # ties
    err = Int8Tensor(int8(batch, 3, seed=seed + 1), -7)

    def passed(isa):
        with on(isa):
            model.keep(3)
            logits = model(x)
            model.backward(err, 3)
        layers = model.weighted()
        gradients = [g for layer in layers for g in (layer.weight_gradient, layer.bias_gradient)]
        for layer in layers:
            layer.weight_gradient = layer.bias_gradient = None
        return [logits, *gradients]

    wanted = passed("reference")
    for isa in ISAS:
        for _ in range(2):
            for found, right in zip(passed(isa), wanted, strict=True):
                assert found.e == right.e and torch.equal(found.m, right.m)


@pytest.mark.parametrize("isa", ["reference", *ISAS])
@pytest.mark.parametrize(
    "x",
    [
        torch.zeros(2, 3, 28, 28, dtype=torch.int8),
        torch.zeros(2, 1, 28, 32, dtype=torch.int8),
        torch.zeros(2, 1, 28, 28, dtype=torch.int32),
    ],
    ids=["channels", "width", "type"],
)
def test_input_that_does_not_fit_is_an_error_and_nothing_is_read_beyond_it(x, isa):
    with on(isa), pytest.raises((ValueError, RuntimeError)):
        from_float(lenet5.build("lenet5"))(Int8Tensor(x, -7))


@pytest.mark.parametrize("target", [torch.zeros(3), torch.zeros(5), torch.zeros(4, 2)])
def test_targets_that_are_not_one_an_example_are_an_error(target):
    logits = Int8Tensor(torch.zeros(4, 3, dtype=torch.int32), 0)
    with pytest.raises(ValueError, match="give the index of each class"):
        loss.Loss(logits, target.to(torch.int64)).total()


@pytest.mark.parametrize("bp", [0, 1, 5])
def test_a_batch_of_none_goes_through(bp):
    model = from_float(lenet5.build("lenet5"))
    model.keep(bp)
    assert model(Int8Tensor(torch.zeros(0, 1, 28, 28, dtype=torch.int8), -7)).m.shape == (0, 10)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("n", [1, 511, 512, 1300, 70_000])
@pytest.mark.parametrize("how", [SparseNoise(15, 0.5), SparseNoise(63, 0.0), SparseNoise(1, 0.98)])
def test_the_sweeps_are_the_reference_s(isa, n, how):
    def swept(name, threads):
        theta = [int8(n, seed=1).clamp(-how.bound, how.bound) for _ in range(2)]
        fractions = [torch.full((n,), 128, dtype=torch.uint8) for _ in theta]
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            with on(name):
                sweeps.sparse_shift_(theta, how, **PLACE, times=1)
                sweeps.sparse_shift_(theta, how, **PLACE, times=-2)
                for g, rate, restore in ((1, 4321, True), (-1, 1 << 16, False), (0, 9, False)):
                    how_far = {"g": g, "rate": rate, "restore": restore}
                    sweeps.sparse_update_(theta, how, **PLACE, **how_far)
                    sweeps.sparse_update_(theta, how, **PLACE, **how_far, fractions=fractions)
        finally:
            torch.set_num_threads(before)
        return theta + fractions

    wanted = swept("reference", 1)
    for threads in (1, 2):
        assert all(map(torch.equal, swept(isa, threads), wanted))


@pytest.mark.parametrize("isa", ISAS)
def test_words_are_the_stream_s(isa):
    with on(isa):
        found = kernels.words((PLACE["seed"], PLACE["step"], 5), 600, torch.device("cpu"))
    wanted = noise.words(PLACE["seed"], PLACE["step"], 0, 5, 0, 3, "cpu")
    assert torch.equal(found, wanted.flatten()[:600])


@pytest.mark.parametrize("exponent", [-70, -40, -26, -12, -5, 0, 6, 30, 60])
def test_the_loss_and_its_error_are_the_reference_s(exponent):
    generator = torch.Generator().manual_seed(exponent)
    for largest in (0, 5, 2**15, 2**31 - 1):
        logits = torch.randint(-largest, largest + 1, (40, 7), generator=generator)
        target = torch.randint(0, 7, (40,), generator=generator)
        u = torch.randint(0, 2**32, (40, 7), generator=generator)
        both = loss.Loss(Int8Tensor(logits.to(torch.int32), exponent), target)
        total, error = both.total(), both.error(u)
        assert total == int(loss.cross_entropy(logits, exponent, target).sum())
        assert torch.equal(error, loss.cross_entropy_gradient(logits, exponent, target, u))


def test_a_target_out_of_range_is_named():
    logits = Int8Tensor(torch.zeros(2, 3, dtype=torch.int32), 0)
    with pytest.raises(IndexError, match=r"expected targets in \[0, 3\), got 3"):
        loss.Loss(logits, torch.tensor([0, 3])).total()


@pytest.mark.parametrize("mu", [-20, -1, 0, 3, 6])
@pytest.mark.parametrize("largest", [0, 1, 100, 2**20, 2**31 - 1, 2**31, 2**45])
def test_the_bp_update_is_the_reference_s(mu, largest):
    generator = torch.Generator().manual_seed(largest)
    gradient = torch.randint(-largest, largest + 1, (99,), generator=generator)
    gradient = gradient.to(torch.int32 if largest < 2**31 else torch.int64)
    for fraction in (None, torch.arange(99, dtype=torch.uint8)):
        weight = int8(99, seed=3)
        wanted, also = weight.clone(), None if fraction is None else fraction.clone()
        with on("reference"):
            kernels.bp_update(wanted, also, gradient, mu)
        kernels.bp_update(weight, fraction, gradient, mu)
        assert torch.equal(weight, wanted)
        assert fraction is None or torch.equal(fraction, also)


IMAGES, CLOUDS = (32, 1, 28, 28), (3, 40, 3)


def after(steps, bp, isa="", *, shape=IMAGES, threads=1, bp_gradient="plus"):
    built = pointnet.build("pointnet") if shape == CLOUDS else lenet5.build("lenet5")
    model = from_float(built, headroom=15)
    for i, p in enumerate(model.parameters()):  # the same weights, whatever torch draws
        p.copy_(int8(*p.shape, seed=1000 * i + 1) // 3)
    x = quantize(int8(*shape, seed=1).float())
    y = torch.arange(len(x.m)) % 10
    how = {"rate": 3000, "mu": 0, "bp_gradient": bp_gradient}
    optimizer = ElasticZO(model, bp, **how)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with on(isa):
            for _ in range(steps):
                optimizer.step(lambda: loss.Loss(model(x), y))
    finally:
        torch.set_num_threads(before)
    return digest(model.state_dict())[:16]


@few
@given(
    shape=st.tuples(sizes, sizes, sizes, sizes),
    outputs=st.integers(1, 20),
    kernel=st.sampled_from([1, 2, 3, 5]),
    pool=st.integers(1, 3),
    seed=st.integers(0, 999),
)
def test_gradients_of_all_layers_are_the_reference_s(shape, outputs, kernel, pool, seed):
    n, c, h, w = shape
    padding = kernel // 2
    h, w = max(h, kernel, pool + kernel), max(w, kernel, pool + kernel)
    stage = [
        *layers("convolution", c, 4, seed, kernel=kernel, padding=padding, pool=1)[:-1],
        *layers("convolution", 4, outputs, seed, kernel=kernel, padding=padding, pool=pool),
    ]
    features = nn.Sequential(*stage)(torch.zeros(1, c, h, w)).shape[1]
    model = from_float(nn.Sequential(*stage, nn.Linear(features, 3)))
    x, err = Int8Tensor(int8(n, c, h, w, seed=seed), -7), int8(n, 3, seed=seed + 1)

    def gradients(isa):
        with on(isa):
            model.keep(3)
            model(x)
            model.backward(Int8Tensor(err, -7), 3)
        layers = model.weighted()
        return [g for layer in layers for g in (layer.weight_gradient, layer.bias_gradient)]

    for found, wanted in zip(gradients(""), gradients("reference"), strict=True):
        assert found is wanted is None or (found.e == wanted.e and torch.equal(found.m, wanted.m))


def batches_of_lenet5(n, isa="", threads=1, **how):
    """The weights after two steps of full BP on ``n`` images."""
    return after(2, 5, isa, shape=(n, 1, 28, 28), threads=threads, **how)


def test_a_step_on_more_images_than_int32_sums_hold_is_the_reference_s():
    wanted = batches_of_lenet5(170, "reference")  # 170 x 784 products are 133,280
    assert len({wanted, batches_of_lenet5(169, "reference")}) == 2
    for isa in ISAS:
        assert batches_of_lenet5(170, isa) == batches_of_lenet5(170, isa, threads=2) == wanted


@pytest.mark.parametrize(
    ("bp", "bp_gradient"),
    [(0, "plus"), (1, "plus"), (2, "plus"), (5, "plus"), (1, "unperturbed"), (3, "mean")],
)
def test_a_few_steps_of_lenet5_are_the_reference_s(bp, bp_gradient):
    wanted = after(3, bp, "reference", bp_gradient=bp_gradient)
    for isa in ISAS:
        assert after(3, bp, isa, bp_gradient=bp_gradient) == wanted


@pytest.mark.parametrize("bp, wanted", [(0, "f7ab7ce926b5546c"), (1, "6283622b07d659b7")])
def test_a_thousand_steps_of_lenet5_end_in_the_golden_bits(bp, wanted):
    assert after(1000, bp, threads=1) == wanted
    assert after(1000, bp, threads=2) == wanted


@pytest.mark.parametrize(
    ("bp", "bp_gradient", "wanted"),
    [
        (4, "plus", "d0a66839cc39b19d"),
        (8, "plus", "d0a4789306f0f349"),
        (5, "mean", "e96b50ef8bc8cb30"),
        (4, "unperturbed", "47357726d8a672b8"),
    ],
)
def test_a_few_steps_of_pointnet_end_in_the_golden_bits(bp, bp_gradient, wanted):
    how = {"shape": CLOUDS, "bp_gradient": bp_gradient}
    assert after(3, bp, "reference", **how) == wanted
    for isa in ISAS:
        assert after(3, bp, isa, threads=1, **how) == wanted
        assert after(3, bp, isa, threads=2, **how) == wanted


CSRC = Path(ezo.__file__).with_name("csrc")


@pytest.mark.skipif(shutil.which("g++") is None, reason="no compiler")
@pytest.mark.parametrize("flags", [[], ["-mavx2"]])
def test_the_products_are_an_oracle_s_and_clean_under_the_sanitizers(tmp_path, flags):
    if flags and "avx2" not in ISAS:
        pytest.skip("the processor has no AVX2")
    program = tmp_path / "check"
    build = ["g++", "-std=c++17", "-O1", *flags, "-fsanitize=address,undefined"]
    build += ["-fno-sanitize-recover=all", "-DEZO_ISA=checked", f"-I{CSRC}", "-o", str(program)]
    build += [str(Path(__file__).with_name("check_kernels.cpp"))]
    sources = "product narrow depthwise noise sparse nodes sweeps layer gradients pooling loss"
    sources += " update node_update outputs output_errors"
    build += ["-pthread", *(str(CSRC / f"{name}.cpp") for name in sources.split())]
    built = subprocess.run(build, capture_output=True, text=True, timeout=300)
    if "cannot find" in built.stderr:
        pytest.skip("the compiler has no sanitizers")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
