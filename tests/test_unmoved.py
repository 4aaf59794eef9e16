"""16-bit ZO weights: perturbed beside themselves, whoever reads them, and rounded at random."""

import pytest
import torch
from torch import nn

import ezo
from ezo import conformance, noise
from ezo.kernels import using
from ezo.perturb import ROUNDING, Sweeper, stochastic
from tests import sweeps

COARSE = [torch.bfloat16, torch.float16]
EPS = 1e-2


class Attends(nn.Module):
    """Its attention reads the projection's weights; the table is tied; a weight is its own."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.scale = nn.Parameter(torch.ones(8))
        self.head = nn.Linear(8, 10)
        self.head.weight = self.table.weight

    def forward(self, words):
        h = self.table(words) * self.scale
        h = h + self.attention(h, h, h, need_weights=False)[0]
        return self.head(h)


class Padded(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(10, 8, padding_idx=0), nn.Linear(8, 10)

    def forward(self, words):
        return self.head(self.table(words))


def mlp():
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4))


def encoder():
    return nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).eval()


def parametrized():
    return nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))


def called_beside():
    """A layer whose hooks never run."""
    model = mlp()
    first = model[0].forward
    model.forward = lambda x: model[3](model[2](model[1](first(x))))
    return model


MODELS = {
    "mlp": mlp,
    "attention": Attends,
    "padding": Padded,
    "encoder": encoder,
    "recurrent": lambda: nn.Sequential(nn.Linear(8, 8), First(nn.GRU(8, 8, batch_first=True))),
    "parametrized": parametrized,
    "called beside": called_beside,
}


class First(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)[0]


def built(name, dtype):
    torch.manual_seed(0)
    words = name in ("attention", "padding")
    x = torch.randint(0, 10, (3, 5)) if words else torch.randn(3, 5, 8).to(dtype)
    return MODELS[name]().to(dtype), x


def copied(model):
    return {name: x.clone() for name, x in model.state_dict().items()}


@pytest.fixture
def no_fast_path():
    """Which adds up otherwise, and which torch leaves out where modules have hooks."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.usefixtures("no_fast_path")
@pytest.mark.parametrize("dtype", COARSE)
@pytest.mark.parametrize("name", MODELS)
def test_passes_meet_theta_plus_and_minus_e_whoever_reads_a_weight(name, dtype):
    (model, x), (other, _) = built(name, dtype), built(name, dtype)
    optimizer = ezo.ElasticZO(model, 0, lr=1e-3, eps=EPS, seed=1)
    for step in range(3):
        seen, theta = [], copied(model)

        def closure(x=x, seen=seen):
            seen.append(model(x).detach())
            return seen[-1].float().square().mean()

        optimizer.step(closure)
        for times, found in zip((1.0, -1.0), seen, strict=True):
            other.load_state_dict(theta)
            Sweeper([p.data for p in other.parameters()]).shift((1, step, 0), EPS, times)
            if name == "padding":
                other.table.weight.data[0] = theta["table.weight"][0]
            with torch.no_grad():
                assert torch.equal(found, other(x))
        assert any(not torch.equal(theta[n], w) for n, w in model.state_dict().items())
    if name == "padding":
        assert torch.equal(model.table.weight[0], built(name, dtype)[0].table.weight[0])


@pytest.mark.parametrize("name", ["mlp", "attention"])
def test_an_exception_leaves_everything_as_it_was(name):
    model, x = built(name, torch.bfloat16)
    theta, passes = copied(model), iter((False, True))

    def closure():
        loss = model(x).float().mean()
        if next(passes):
            raise KeyError
        return loss

    with pytest.raises(KeyError):
        ezo.ElasticZO(model, 0, eps=EPS).step(closure)
    after = model.state_dict()
    assert all(torch.equal(theta[n], after[n]) for n in theta)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_bp_before_zo_takes_its_gradient_at_the_perturbed_weights():
    model, x = built("mlp", torch.bfloat16)
    theta = copied(model)
    optimizer = ezo.ElasticZO(model, model[0], eps=0.1, lr=0.0, bp_gradient="last", seed=1)
    optimizer.step(lambda: model(x).float().square().mean())
    other, _ = built("mlp", torch.bfloat16)
    other.load_state_dict(theta)
    zo = [p for p in other.parameters() if p not in set(other[0].parameters())]
    Sweeper([p.data for p in zo]).shift((1, 0, 0), 0.1, -1.0)
    other(x).float().square().mean().backward()
    assert torch.equal(model[0].weight.grad, other[0].weight.grad)


@pytest.mark.parametrize("dtype", COARSE)
@pytest.mark.parametrize("kind", ["gaussian", "rademacher-1"])
def test_the_conformance_suite_holds(dtype, kind):
    def make_step(model, lr, eps, seed):
        return ezo.ElasticZO(model, 0, lr=lr, eps=eps, seed=seed, noise=kind).step

    conformance.assert_conforms(make_step, drift_steps=100, dtype=dtype)


@pytest.mark.parametrize("dtype", COARSE)
def test_ten_thousand_steps_with_no_slope_leave_every_bit(dtype):
    model = nn.Linear(3, 2).to(dtype)
    before, loss = copied(model), torch.ones(())
    optimizer = ezo.ElasticZO(model, 0, lr=0.1, eps=0.1)
    for _ in range(10_000):
        optimizer.step(lambda: loss)
    assert all(torch.equal(before[n], x) for n, x in model.state_dict().items())


@pytest.mark.parametrize("kind", noise.NOISES)
@pytest.mark.parametrize("dtype", COARSE)
def test_compiled_updates_equal_the_reference(dtype, kind):
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    for rate in (1e-9, 3e-4, 0.7):
        found, wanted, strided = every.clone(), every.clone(), every.repeat_interleave(2)[::2]
        for tensors, path in ((found, ""), (wanted, "reference"), (strided, "")):
            with using(path) if path else torch.no_grad():
                Sweeper([tensors], noise=kind, first_tensor=2).learn((7, 8, 9), rate, 1e-3)
        assert torch.equal(found.view(torch.int16), wanted.view(torch.int16))
        assert torch.equal(strided, found)


@pytest.mark.parametrize("dtype", COARSE)
def test_rounding_is_to_a_neighbour_and_right_in_the_mean(dtype):
    u = torch.arange(1 << 16)
    least = torch.finfo(dtype).smallest_normal
    for x in (0.3, -0.3, 1.0000001, least * 1.37, -least * 0.37, 0.0, least / 3):
        x = torch.tensor(x, dtype=torch.float32)
        found = stochastic(x.expand(len(u)), u, dtype).double()
        kinds = found.unique()
        gap = (kinds[-1] - kinds[0]).item()
        nearest = x.to(dtype).double()
        assert len(kinds) <= 2 and (len(kinds) == 1 or nearest in kinds)
        assert found.mean().item() == pytest.approx(x.item(), abs=gap * 2e-4)


@pytest.mark.parametrize("dtype", COARSE)
@pytest.mark.parametrize("path", ["", "reference"])
def test_updates_far_below_a_last_place_are_not_lost(dtype, path):
    n, rate = 1 << 14, 2.0**-9 * torch.finfo(dtype).eps
    theta, z = torch.full((n,), 0.75, dtype=dtype), torch.empty(n)
    moved = torch.zeros(n, dtype=torch.float64)
    with using(path) if path else torch.no_grad():
        for step in range(30):
            theta.fill_(0.75)
            sweeps.fill_([z], seed=1, step=step)
            Sweeper([theta]).learn((1, step, 0), rate, 0.0)
            moved += (theta.double() - 0.75) * z
    along = -moved.sum().item() / (30 * n)
    assert along == pytest.approx(rate, rel=0.25)


def test_a_rounding_s_stream_is_no_query_s():
    assert 1 << 29 < ROUNDING < ezo.nodes.STREAM
