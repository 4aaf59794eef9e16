"""ElasticZO against loops that are written out."""

import functools
import itertools

import pytest
import torch
from torch import nn

from ezo import ElasticZO
from ezo.models import lenet5
from ezo.noise import NOISES
from tests.backends import on
from tests.small_networks import (
    EPS,
    LR,
    assert_other,
    assert_same,
    batch,
    cross_entropy,
    mlp,
    move,
    noise_like,
    parameters,
    set_weights,
    train,
)

# --- oracles --------------------------------------------------------------------------------------


def elastic_by_hand(model, zo, loss_of, step, seed=0, queries=1, lr=LR, eps=EPS, clip=None,
                    decay=0.0, kind="gaussian", where="mean"):  # fmt: skip
    """One step with z kept, in float64: g per query, ZO parameters moved, BP gradients in place.

    Returns the g of each query. Rounds where the parameters do, and nowhere else.
    """
    theta = [p.detach().clone() for p in zo]
    noises = [noise_like(zo, seed, step, q, kind) for q in range(queries)]
    rest = [p for p in model.parameters() if p.requires_grad and all(p is not q for q in zo)]
    total, slopes = [torch.zeros_like(p) for p in rest], []

    def loss_at(times, z, weight):
        move(zo, [t + times * eps * n for t, n in zip(theta, z, strict=True)])
        loss = loss_of()
        if rest and weight:
            for sum_, g in zip(total, torch.autograd.grad(loss, rest), strict=True):
                sum_ += weight * g
        return loss.item()

    if where == "unperturbed":
        loss_at(0.0, noises[0], 1.0)
    for z in noises:
        both = 0.5 / queries if where == "mean" else 0.0
        plus = loss_at(1.0, z, both + (where == "plus" and z is noises[-1]))
        minus = loss_at(-1.0, z, both + (where in ("minus", "last") and z is noises[-1]))
        g = (plus - minus) / (2 * eps)
        slopes.append(g if clip is None else min(max(g, -clip), clip))
    mean = [
        sum(g * z[i] for g, z in zip(slopes, noises, strict=True)) / queries for i in range(len(zo))
    ]
    move(zo, [t - lr * (m + decay * t) for t, m in zip(theta, mean, strict=True)])
    for p, g in zip(rest, total, strict=True):
        p.grad = g
    return slopes


def exact_step(zo, bp, loss_of, optimizer, step, seed, lr, eps):
    """A float32 step with z kept, whose every operation rounds as documented in ezo.perturb."""

    def snap(x):
        return (x / 2.0**-22).round() * 2.0**-22

    theta = [snap(p.detach()) for p in zo]
    e = [snap(z * eps) for z in noise_like(zo, seed, step)]
    for p in bp:
        p.grad = None
    losses = []
    for sign in (1, -1):
        move(zo, [t + sign * x for t, x in zip(theta, e, strict=True)])
        loss = loss_of()
        (0.5 * loss).backward()
        losses.append(loss.item())
    g = (losses[0] - losses[1]) / (2 * eps)
    wanted = [snap(z * (eps - lr * g)) for z in noise_like(zo, seed, step)]
    move(zo, [t + (w - x) for t, w, x in zip(theta, wanted, e, strict=True)])
    if optimizer is not None:
        optimizer.step()


# --- limit cases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [
    functools.partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=1e-3),
    functools.partial(torch.optim.Adam, lr=0.01),
])  # fmt: skip
@pytest.mark.parametrize("bp", ["all", 3, "0"])
def test_no_zo_layer_is_plain_backpropagation_bit_for_bit(make, bp):
    model, plain = mlp(dropout=0.3), mlp(dropout=0.3)
    torch.manual_seed(0)
    losses = train(model, ElasticZO(model, bp, bp_optimizer=make), 5)
    state = torch.get_rng_state()
    torch.manual_seed(0)
    optimizer, expected = make(plain.parameters()), []
    for step in range(5):
        optimizer.zero_grad()
        loss = cross_entropy(plain, *batch(step))
        loss.backward()
        optimizer.step()
        expected.append(loss.detach())
    assert_same(losses, expected)
    assert_same(model.parameters(), plain.parameters())
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("k", range(6))
def test_every_split_of_lenet5_equals_the_loop_written_out_bit_for_bit(k):
    model, other = (set_weights(lenet5.build("lenet5")) for _ in range(2))
    x, y = torch.cos(torch.arange(3 * 784) * 0.37).view(3, 1, 28, 28), torch.tensor([1, 4, 7])
    ours = ElasticZO(model, k, lr=1e-3, eps=EPS, seed=5)
    every = list(other.parameters())
    zo, bp = every[: len(every) - 2 * k], every[len(every) - 2 * k :]
    sgd = torch.optim.SGD(bp, lr=0.01, momentum=0.9) if bp else None
    for step in range(2):
        ours.step(lambda: cross_entropy(model, x, y))
        exact_step(zo, bp, lambda: cross_entropy(other, x, y), sgd, step, 5, 1e-3, EPS)
    assert_same(model.parameters(), other.parameters())
    assert_other(model.parameters(), set_weights(lenet5.build("lenet5")).parameters())


@pytest.mark.parametrize("kind", NOISES)
@pytest.mark.parametrize("how", [
    {}, {"clip": 0.02}, {"decay": 0.1}, {"queries": 3}, {"queries": 4, "clip": 0.3, "decay": 0.2},
])  # fmt: skip
def test_full_zo_equals_the_loop_written_out(how, kind):
    model, other = mlp(torch.float64), mlp(torch.float64)
    ours = {{"decay": "weight_decay"}.get(name, name): value for name, value in how.items()}
    optimizer = ElasticZO(model, 0, lr=LR, eps=EPS, seed=9, noise=kind, **ours)
    clipped = False
    for step in range(4):
        x, y = batch(step, dtype=torch.float64)
        loss = optimizer.step(lambda x=x, y=y: cross_entropy(model, x, y))
        slopes = elastic_by_hand(
            other, list(other.parameters()), lambda x=x, y=y: cross_entropy(other, x, y), step,
            seed=9, kind=kind, **how,
        )  # fmt: skip
        assert len(optimizer.estimates) == how.get("queries", 1)
        clipped |= any(abs(g) == how.get("clip") for g in slopes)
        both = [value for e in optimizer.estimates for value in (e.loss_plus, e.loss_minus)]
        assert loss.item() == pytest.approx(sum(both) / len(both), rel=1e-12)
    assert clipped == ("clip" in how)
    # A weight is off by a few grid steps of 2^-51, and g by that over eps.
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=2e-11)


@pytest.mark.parametrize("where", ["mean", "plus", "minus", "last", "unperturbed"])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("bp", [1, 2])
def test_bp_gradient_is_autograds_at_the_perturbed_parameters(where, queries, bp):
    model, other = mlp(torch.float64), mlp(torch.float64)
    optimizer = ElasticZO(
        model, bp, lr=LR, eps=0.05, seed=2, queries=queries, bp_gradient=where,
        bp_optimizer=functools.partial(torch.optim.SGD, lr=0.1),
    )  # fmt: skip
    x, y = batch(dtype=torch.float64)
    calls = []

    def closure():
        calls.append(torch.is_grad_enabled())
        return cross_entropy(model, x, y)

    loss = optimizer.step(closure)
    before = parameters(other)
    zo = list(other.parameters())[: 6 - 2 * bp]
    elastic_by_hand(other, zo, lambda: cross_entropy(other, x, y), 0, seed=2, queries=queries,
                    eps=0.05, where=where)  # fmt: skip
    for ours, theirs, old in list(zip(model.parameters(), other.parameters(), before, strict=True))[
        6 - 2 * bp :
    ]:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-13)
        torch.testing.assert_close(ours, old - 0.1 * theirs.grad, rtol=1e-10, atol=1e-13)
    assert (
        calls
        == {
            "mean": [True, True] * queries,
            "plus": [False] * (2 * queries - 1) + [True],
            "minus": [False] * (2 * queries - 1) + [True],
            "last": [False] * (2 * queries - 1) + [True],
            "unperturbed": [False, False] * queries + [True],
        }[where]
    )
    if where == "unperturbed":
        assert loss.item() == cross_entropy(mlp(torch.float64), x, y).item()


def test_where_the_bp_gradient_is_taken_matters():
    gradients = []
    for where in ("mean", "plus", "minus", "unperturbed"):
        model = mlp()
        train(model, ElasticZO(model, 1, eps=0.05, bp_gradient=where), 1)
        gradients.append(model[-1].weight.grad)
    for a, b in itertools.combinations(gradients, 2):
        assert not torch.equal(a, b)


def test_unperturbed_costs_no_extra_pass_without_bp_layers():
    model, calls = mlp(), []
    optimizer = ElasticZO(model, 0, bp_gradient="unperturbed")
    optimizer.step(lambda: (calls.append(1), cross_entropy(model, *batch()))[1])
    assert len(calls) == 2


def test_seeds_matter_and_repeat():
    runs = []
    for seed in (0, 0, 1, 2**63 + 5):
        model = mlp()
        train(model, ElasticZO(model, 1, lr=LR, seed=seed), 3)
        runs.append(parameters(model))
    assert_same(runs[0], runs[1])
    for a, b in itertools.combinations(runs[1:], 2):
        assert_other(a[:4], b[:4])


def test_the_reference_trains_to_the_same_bits():
    runs = []
    for path in ("", "reference"):
        model = mlp()
        with on(path):
            train(model, ElasticZO(model, 1, lr=LR, queries=2, weight_decay=0.1), 3)
        runs.append(parameters(model))
    assert_same(*runs)


def test_channels_last_trains_to_the_same_bits():
    runs = []
    for layout in (torch.contiguous_format, torch.channels_last):
        model = set_weights(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2)))
        model = model.to(memory_format=layout)
        x = torch.cos(torch.arange(2 * 48.0)).view(2, 3, 4, 4)
        calls = iter([0.5, 0.25] * 2)  # the same losses, whatever convolution rounds like
        optimizer = ElasticZO(model, 0, lr=LR)
        for _ in range(2):
            optimizer.step(lambda: model(x).sum() * 0 + next(calls))  # noqa: B023
        runs.append(parameters(model))
    assert_same(*runs)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("bp", [0, 1])
def test_other_types_train(dtype, bp):
    model = mlp(dtype)
    before = parameters(model)
    optimizer = ElasticZO(model, bp, lr=0.05, eps=0.02, clip=5.0)
    losses = [train(model, optimizer, 1, dtype=dtype)[0] for _ in range(40)]
    assert all(p.dtype == dtype for p in model.parameters())
    assert_other(before, parameters(model))
    assert sum(losses[-10:]) < sum(losses[:10])


def test_golden_losses():
    model = mlp()
    losses = train(model, ElasticZO(model, 1, lr=LR, eps=EPS, clip=5.0, seed=1), 10)
    assert [x.item() for x in losses] == pytest.approx(GOLDEN, rel=1e-5)


GOLDEN = [
    1.6735241,
    1.6632435,
    1.6728916,
    1.6053996,
    1.6590323,
    1.6986609,
    1.6449544,
    1.6414721,
    1.6431184,
    1.6073642,
]
