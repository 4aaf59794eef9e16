"""What zeroth order can learn in a step, held to losses whose gradient and Hessian are known."""

import math

import pytest
import torch
from torch import nn

from ezo import signal
from ezo.models import lenet5
from ezo.noise import draw
from ezo.signal import Signal, measure

# Letters: N examples, I inputs, K outputs, d parameters.


class Quadratic(nn.Module):
    """loss_b(w) = w' A w / 2 + c_b' w, so the gradient is A w + c_b and the Hessian A."""

    def __init__(self, a, w):
        super().__init__()
        self.a = a
        self.w = nn.Parameter(w.clone()[:, None])

    def forward(self, c):
        w = self.w[:, 0]
        return w @ self.a @ w / 2 + c @ w


def quadratic(d=5, batches=7, diagonal=False):
    generator = torch.Generator().manual_seed(0)
    random = torch.randn(d, d, generator=generator, dtype=torch.float64)
    a = random @ random.mT + torch.eye(d)
    a = torch.diag(a.diagonal()) if diagonal else a
    w = torch.randn(d, generator=generator, dtype=torch.float64)
    c = torch.randn(batches, d, generator=generator, dtype=torch.float64)
    return Quadratic(a, w), a, w, list(c)


def loss_of(model):
    return lambda batch: model(batch)


def test_gradients_are_means_over_pairs_and_over_batches():
    model, a, w, c = quadratic()
    gradients = [a @ w + row for row in c]
    pairs = [x @ y for i, x in enumerate(gradients) for j, y in enumerate(gradients) if i != j]
    found = measure(model, loss_of(model), c)
    assert found.mean_gradient == pytest.approx(sum(pairs).item() / len(pairs), rel=1e-12)
    squares = [(g @ g).item() for g in gradients]
    assert found.batch_gradient == pytest.approx(sum(squares) / len(squares), rel=1e-12)
    losses = [(w @ a @ w / 2 + row @ w).item() for row in c]
    assert found.loss == pytest.approx(sum(losses) / len(losses), rel=1e-12)
    assert found.parameters == 5


def test_trace_is_exact_for_a_diagonal_hessian_and_right_in_the_mean():
    model, a, _, c = quadratic(diagonal=True)
    assert measure(model, loss_of(model), c).curvature == pytest.approx(a.trace().item())
    model, a, _, c = quadratic(batches=4)
    seeds = 400
    mean = sum(measure(model, loss_of(model), c, seed=s).curvature for s in range(seeds)) / seeds
    off = a - torch.diag(a.diagonal())
    deviation = math.sqrt(2 * off.square().sum().item() / (4 * seeds))
    assert mean == pytest.approx(a.trace().item(), abs=4 * deviation)
    assert deviation < 0.03 * a.trace().item()


def test_no_other_rate_lowers_the_loss_by_more():
    """Steps by -lr (z' g) z: in the mean the loss falls by what was said, here within 10 %."""
    d = 60
    model, a, w, c = quadratic(d=d, batches=40)
    a.copy_(torch.diag(torch.linspace(0.5, 1.5, d, dtype=torch.float64)))
    found = measure(model, loss_of(model), c)
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(20_000, d, generator=generator, dtype=torch.float64)
    g = a @ w + torch.stack(c).repeat(500, 1)  # (20,000, d)
    v = (z * g).sum(1, keepdim=True) * z
    mean = a @ w + torch.stack(c).mean(0)

    def decrease(lr):
        return (lr * (v @ mean) - lr * lr / 2 * (v * (v @ a)).sum(1)).mean().item()

    assert decrease(found.rate) == pytest.approx(found.decrease, rel=0.1)
    assert decrease(found.rate) > max(decrease(found.rate / 2), decrease(found.rate * 2), 0)
    assert found.steps(1.0) == pytest.approx(1 / found.decrease)


class Regression(nn.Module):
    """Two linear layers with a ReLU between, in float64."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(2)
        self.one, self.two = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))

    def forward(self, x):
        return self.two(self.one(x).relu())


def test_nodes_meet_the_curvature_of_their_own_update():
    """By hand: noise from the stream, deltas by the chain rule, the Hessian as one matrix."""
    model = Regression()
    generator = torch.Generator().manual_seed(3)
    batches = list(torch.randn(3, 5, 3, generator=generator, dtype=torch.float64))
    parameters = dict(model.named_parameters())
    names, sizes = list(parameters), [p.numel() for p in parameters.values()]
    flat = torch.cat([p.detach().flatten() for p in parameters.values()])

    def loss_at(theta, x):
        parts = [t.view_as(p) for t, p in zip(theta.split(sizes), parameters.values(), strict=True)]
        named = dict(zip(names, parts, strict=True))
        return torch.func.functional_call(model, named, (x,)).square().sum(1).mean()

    met, squares = [], []
    for b, x in enumerate(batches):
        hidden = x @ model.one.weight.mT + model.one.bias
        on = (hidden > 0).double()
        delta_two = 2 * model(x)  # (N, K), of one example's loss
        delta_one = delta_two @ model.two.weight * on
        n_one = draw("gaussian", 7, b, 0, 0, 0, 1)[:20].view(5, 4).double()
        n_two = draw("gaussian", 7, b, 1, 0, 0, 1)[:10].view(5, 2).double()
        d = (n_one * delta_one).sum(1) + (n_two * delta_two).sum(1)  # (N,)
        felt_one, felt_two = d[:, None] * n_one * on / 5, d[:, None] * n_two / 5
        parts = felt_one.mT @ x, felt_one.sum(0), felt_two.mT @ hidden.relu(), felt_two.sum(0)
        v = torch.cat([part.detach().flatten() for part in parts])
        hessian = torch.autograd.functional.hessian(lambda t, x=x: loss_at(t, x), flat)
        met.append((v @ hessian @ v).item())
        g = torch.func.grad(lambda t, x=x: loss_at(t, x))(flat)
        squares.append((g @ g).item())
    found = measure(model, lambda x: model(x).square().sum(1).mean(), batches, nodes=True, seed=7)
    assert found.batch_gradient == pytest.approx(sum(squares) / 3)
    assert found.curvature * found.batch_gradient == pytest.approx(sum(met) / 3)


def test_layers_by_backpropagation_are_not_measured():
    model = Regression()
    batches = list(torch.ones(2, 1, 3, dtype=torch.float64))

    def loss(x):
        return model(x).square().sum(1).mean()

    assert measure(model, loss, batches).parameters == 26
    assert measure(model, loss, batches, bp=1).parameters == 16
    assert measure(model, loss, batches, bp=1, nodes=True).parameters == 16
    with pytest.raises(ValueError, match="a linear layer before bp=2, got none; give a smaller"):
        measure(model, loss, batches, bp=2, nodes=True)


def test_nodes_learn_more_of_a_network_than_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    generator = torch.Generator().manual_seed(4)
    y = torch.arange(32) % 10
    classes = torch.randn(10, 8, 8, generator=generator)
    batches = [classes[y] + torch.randn(32, 8, 8, generator=generator) for _ in range(20)]

    def loss(x):
        return nn.functional.cross_entropy(model(x), y)

    weights, nodes = (measure(model, loss, batches, nodes=n) for n in (False, True))
    assert nodes.mean_gradient == pytest.approx(weights.mean_gradient)
    assert nodes.decrease > 3 * weights.decrease > 0


def test_the_model_and_the_global_generator_are_left_as_they_were():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    batches = [torch.eye(3), torch.ones(4, 3).cumsum(0)]

    def found():
        return measure(model, lambda x: model(x).square().mean(), batches, nodes=True)

    first = found()
    assert torch.equal(torch.get_rng_state(), state)
    assert found() == first
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in model.parameters())
    assert not model[0]._forward_hooks


def test_no_signal_and_no_curvature():
    nothing = Signal(1.0, mean_gradient=-0.1, batch_gradient=1.0, curvature=2.0, parameters=3)
    assert (nothing.rate, nothing.decrease, nothing.steps(1.0)) == (0.0, 0.0, math.inf)
    line = nn.Linear(2, 1, bias=False)
    found = measure(line, lambda x: line(x).mean(), [torch.ones(1, 2)] * 2)
    assert (found.curvature, found.rate, found.steps(1.0)) == (0.0, math.inf, 0.0)


def test_a_network_of_the_package():
    model = lenet5.build("lenet5")
    generator = torch.Generator().manual_seed(5)
    batches = [(torch.randn(4, 1, 28, 28, generator=generator), torch.arange(4))] * 2
    found = signal.measure(
        model, lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), batches, bp=1
    )
    assert found.mean_gradient == pytest.approx(found.batch_gradient, rel=1e-4)  # the same batch
    assert found.parameters == 106_936


def test_what_cannot_be_measured_is_refused():
    model = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="two batches or more, got 1"):
        measure(model, lambda x: model(x).mean(), [torch.ones(1, 2)])
    with pytest.raises(ValueError, match=r"a scalar, got shape \(1, 2\); take its mean"):
        measure(model, model, [torch.ones(1, 2)] * 2)
