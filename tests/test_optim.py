"""ElasticZO against loops that are written out, and everything a step must leave alone."""

import copy
import functools
import inspect
import io
import itertools
import math
import pickle
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ezo import ElasticZO, Estimate, perturb
from ezo.buffers import Buffers
from ezo.data._vision import import_torchvision
from ezo.kernels import using
from ezo.models import lenet5, pointnet
from ezo.noise import NOISES
from ezo.passes import Passes
from ezo.step import Visit
from tests import sweeps
from tests.backends import on

F = nn.functional
LR, EPS = 1e-2, 1e-3


def mlp(dtype=torch.float32, dropout=0.0):
    """7-11-13-5, weights set without any random generator."""
    model = nn.Sequential(
        nn.Linear(7, 11), nn.Tanh(), nn.Dropout(dropout), nn.Linear(11, 13), nn.Tanh(),
        nn.Linear(13, 5),
    )  # fmt: skip
    return set_weights(model).to(dtype)


def set_weights(model):
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p.copy_(torch.sin(torch.arange(p.numel()) * 1.7 + i).view(p.shape) * 0.4)
    return model


def normed():
    """With batch norm in the ZO part and in the BP part; the latter two are one layer each."""
    return set_weights(nn.Sequential(
        nn.Linear(7, 11), nn.BatchNorm1d(11), nn.Tanh(), nn.Linear(11, 13), nn.BatchNorm1d(13),
        nn.Tanh(), nn.Linear(13, 5),
    ))  # fmt: skip


def batch(step=0, n=6, dtype=torch.float32):
    x = torch.cos(torch.arange(n * 7) * (0.9 + 0.1 * step)).view(n, 7).to(dtype)
    return x, torch.arange(n) % 5


def cross_entropy(model, x, y):
    return F.cross_entropy(model(x), y)


def train(model, optimizer, steps, first=0, dtype=torch.float32):
    losses = []
    for step in range(first, first + steps):
        x, y = batch(step, dtype=dtype)
        losses.append(optimizer.step(lambda x=x, y=y: cross_entropy(model, x, y)))
    return losses


def parameters(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b)
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert torch.equal(x, y), f"number {i} differs by {(x - y).abs().max()}"


def assert_other(a, b):
    for i, (x, y) in enumerate(zip(a, b, strict=True)):
        assert not torch.equal(x, y), f"number {i} is unchanged"


def on_grid(model):
    """Snap the weights, as a first step would, so that undoing one gives every bit back."""
    with torch.no_grad():
        for p in model.parameters():
            grid = perturb.GRID[p.dtype]
            p.copy_((p.double() / grid).round() * grid)
    return model


# --- oracles -------------------------------------------------------------------------------------


def noise_like(zo, seed, step, stream=0, kind="gaussian"):
    z = [torch.empty_like(p, memory_format=torch.contiguous_format).detach() for p in zo]
    sweeps.fill_(z, seed=seed, step=step, stream=stream, noise=kind, reference=True)
    return z


def move(zo, values):
    with torch.no_grad():
        for p, value in zip(zo, values, strict=True):
            p.copy_(value)


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


# --- limit cases ---------------------------------------------------------------------------------


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


# --- groups, schedulers, state -------------------------------------------------------------------


def test_groups_have_their_own_lr_and_eps():
    model, other = mlp(torch.float64), mlp(torch.float64)
    first, second = list(model.parameters())[:4], list(model.parameters())[4:]
    optimizer = ElasticZO(
        model, 0, lr=LR, eps=EPS, clip=0.1,
        zo_groups=[{"params": first, "lr": 0.03}, {"params": second, "eps": 4e-3, "clip": None}],
    )  # fmt: skip
    assert [(g["lr"], g["eps"], g["clip"]) for g in optimizer.param_groups] == [
        (0.03, EPS, 0.1), (LR, 4e-3, None),
    ]  # fmt: skip
    x, y = batch(dtype=torch.float64)
    optimizer.step(lambda: cross_entropy(model, x, y))
    theta = list(other.parameters())
    old, z = parameters(other), noise_like(theta, 0, 0)
    eps, lr = [EPS] * 4 + [4e-3] * 2, [0.03] * 4 + [LR] * 2
    losses = []
    for sign in (1, -1):
        move(theta, [t + sign * e * n for t, e, n in zip(old, eps, z, strict=True)])
        losses.append(cross_entropy(other, x, y).item())
    for i, p in enumerate(model.parameters()):
        g = (losses[0] - losses[1]) / (2 * eps[i])
        g = max(-0.1, min(0.1, g)) if i < 4 else g
        torch.testing.assert_close(p.detach(), old[i] - lr[i] * g * z[i], rtol=0, atol=1e-11)


def test_one_group_given_equals_none_given():
    runs = []
    for groups in (None, [{"params": "zo"}]):
        model = mlp()
        if groups:
            groups = [{"params": iter(list(model.parameters())[:4])}]
        train(model, ElasticZO(model, 1, lr=LR, zo_groups=groups), 2)
        runs.append(parameters(model))
    assert_same(*runs)


SCHEDULERS = {
    "lambda": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 0.5**step),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=5),
    "one cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(
        o, max_lr=[g["lr"] for g in o.param_groups], total_steps=6, cycle_momentum=False
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("bp", [0, 1, "all"])
def test_schedulers_drive_both_parts(name, bp):
    """Against the same rates set by hand, in a run of plain optimisers' schedules."""
    model, other = mlp(), mlp()
    make = functools.partial(torch.optim.SGD, lr=0.1)
    driven, by_hand = (ElasticZO(m, bp, lr=LR, bp_optimizer=make) for m in (model, other))
    scheduler = SCHEDULERS[name](driven)
    p = nn.Parameter(torch.zeros(1))
    starts = [g["lr"] for g in by_hand.param_groups]
    assert starts == {0: [LR], 1: [LR, 0.1], "all": [LR, 0.1]}[bp]
    plain = [torch.optim.SGD([p], lr=lr) for lr in starts]
    schedules = [SCHEDULERS[name](o) for o in plain]
    rates = []
    for step in range(5):
        for group, o in zip(by_hand.param_groups, plain, strict=True):
            group["lr"] = o.param_groups[0]["lr"]
        rates.append([group["lr"] for group in driven.param_groups])
        assert rates[-1] == [group["lr"] for group in by_hand.param_groups]
        train(model, driven, 1, first=step)
        train(other, by_hand, 1, first=step)
        scheduler.step()
        for o, schedule in zip(plain, schedules, strict=True):
            o.step()
            schedule.step()
    assert len({tuple(r) for r in rates}) == 5
    assert_same(model.parameters(), other.parameters())


def test_a_rate_of_zero_stops_its_part():
    model = on_grid(mlp())
    optimizer = ElasticZO(model, 1, lr=LR)
    before = parameters(model)
    optimizer.param_groups[0]["lr"] = 0.0
    train(model, optimizer, 2)
    assert_same(before[:4], parameters(model)[:4])
    assert_other(before[4:], parameters(model)[4:])
    before = parameters(model)
    optimizer.param_groups[0]["lr"], optimizer.param_groups[1]["lr"] = LR, 0.0
    train(model, optimizer, 2)
    assert_other(before[:4], parameters(model)[:4])
    assert_same(before[4:], parameters(model)[4:])


@pytest.mark.parametrize("bp", [0, 1, "all"])
def test_a_state_dict_continues_to_the_same_bits(bp):
    make = functools.partial(torch.optim.Adam, lr=0.01)

    def start(seed):
        model = mlp()
        optimizer = ElasticZO(model, bp, lr=LR, bp_optimizer=make, seed=seed, queries=2)
        return model, optimizer, SCHEDULERS["cosine"](optimizer)

    def go(model, optimizer, scheduler, steps, first):
        for step in range(first, first + steps):
            train(model, optimizer, 1, first=step)
            scheduler.step()

    whole = start(3)
    go(*whole, 3, 0)
    saved = io.BytesIO()
    torch.save([part.state_dict() for part in whole], saved)
    go(*whole, 3, 3)
    saved.seek(0)
    resumed = start(4)
    go(*resumed, 1, 0)  # whatever it did before is forgotten
    for part, state in zip(resumed, torch.load(saved, weights_only=True), strict=True):
        part.load_state_dict(state)
    go(*resumed, 3, 3)
    assert_same(whole[0].parameters(), resumed[0].parameters())
    lrs = [[g["lr"] for g in run[1].param_groups] for run in (whole, resumed)]
    assert lrs[0] == lrs[1]


def test_a_state_dict_of_another_kind_or_split_is_refused():
    one, none = ElasticZO(mlp(), 1), ElasticZO(mlp(), 0)
    with pytest.raises(
        ValueError, match="state dict of ezo.ElasticZO, got one with the keys state"
    ):
        one.load_state_dict(torch.optim.SGD(mlp().parameters(), lr=0.1).state_dict())
    with pytest.raises(ValueError, match="groups ZO of 4, BP of 2, got ZO of 6; give the same bp"):
        one.load_state_dict(none.state_dict())
    with pytest.raises(ValueError, match="groups ZO of 6, got ZO of 4, BP of 2; give the same bp"):
        none.load_state_dict(one.state_dict())


# --- what a step must leave alone ----------------------------------------------------------------


@pytest.mark.parametrize("of", ["optimizer", "model"])
def test_zero_grad_in_the_closure_is_harmless(of):
    runs = []
    for clear in (True, False):
        model = mlp()
        optimizer = ElasticZO(model, 1, lr=LR)

        def closure(model=model, optimizer=optimizer, clear=clear):
            if clear:
                (optimizer if of == "optimizer" else model).zero_grad()
            return cross_entropy(model, *batch())

        for _ in range(3):
            optimizer.step(closure)
        runs.append(parameters(model))
    assert_same(*runs)
    assert model[-1].weight.grad is not None
    optimizer.zero_grad()
    assert model[-1].weight.grad is None


class Stop(Exception):
    pass


@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("bp", [0, 1])
def test_an_exception_in_the_closure_leaves_every_parameter(error, at, bp):
    model = on_grid(normed())
    optimizer = ElasticZO(model, bp, lr=LR, queries=2)
    before, calls = parameters(model), itertools.count()

    def closure():
        loss = cross_entropy(model, *batch())
        if next(calls) == at:
            raise error
        return loss

    with pytest.raises(error):
        optimizer.step(closure)
    assert_same(before, parameters(model))
    assert all(p.requires_grad for p in model.parameters())
    assert model[1].track_running_stats and model[1].num_batches_tracked == 0
    optimizer.step(closure)
    assert_other(before, parameters(model))
    assert model[1].num_batches_tracked == 1


def test_an_exception_before_any_step_changes_a_weight_by_half_a_grid_at_most():
    model = mlp()
    before = parameters(model)
    with pytest.raises(Stop):
        ElasticZO(model, 0).step(lambda: (_ for _ in ()).throw(Stop))
    for a, b in zip(before, parameters(model), strict=True):
        assert (a - b).abs().max() <= 2.0**-23


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", range(4))
@pytest.mark.parametrize("queries", [1, 2])
@pytest.mark.parametrize("bp", [0, 1, "all"])
def test_a_loss_that_is_not_finite_leaves_every_parameter(bad, at, queries, bp):
    model = on_grid(mlp())
    optimizer = ElasticZO(model, bp, lr=LR, queries=queries, bp_gradient="unperturbed")
    passes = {0: 2 * queries, 1: 1 + 2 * queries, "all": 1}[bp]
    before, calls = parameters(model), itertools.count()

    def closure():
        return cross_entropy(model, *batch()) * (bad if next(calls) % passes == at % passes else 1)

    loss = optimizer.step(closure)
    assert_same(before, parameters(model))
    assert bp == 1 or not math.isfinite(loss) or queries == 2
    train(model, optimizer, 1)
    assert_other(before, parameters(model))


def test_a_loss_that_is_not_finite_counts_as_a_step():
    model, other = on_grid(mlp()), on_grid(mlp())
    optimizers = [ElasticZO(m, 0, lr=LR) for m in (model, other)]
    optimizers[0].step(lambda: cross_entropy(model, *batch()) * math.nan)
    assert not optimizers[0].estimates[0].finite
    optimizers[1].step(lambda: torch.ones(()))
    assert optimizers[1].estimates == [Estimate(1.0, 1.0)] and optimizers[1].estimates[0].finite
    for m, optimizer in zip((model, other), optimizers, strict=True):
        train(m, optimizer, 1)
    assert_same(model.parameters(), other.parameters())


@pytest.mark.parametrize("bp", [0, 1, 2])
@pytest.mark.parametrize("where", ["mean", "plus", "minus", "unperturbed"])
@pytest.mark.parametrize("queries", [1, 2])
def test_dropout_draws_one_mask_a_step(bp, where, queries):
    model, seen = mlp(dropout=0.5), []
    model[2].register_forward_hook(lambda module, x, y: seen.append(y == 0))
    optimizer = ElasticZO(model, bp, lr=LR, bp_gradient=where, queries=queries)
    torch.manual_seed(3)
    expected = []
    for _ in range(2):
        seen.clear()
        cross_entropy(model, *batch())
        expected.append((seen[0], torch.get_rng_state()))
    assert not torch.equal(expected[0][0], expected[1][0])
    torch.manual_seed(3)
    for mask, state in expected:
        seen.clear()
        train(model, optimizer, 1)
        assert len(seen) == 2 * queries + (where == "unperturbed" and bp > 0)
        assert_same(seen, [mask] * len(seen))
        assert torch.equal(torch.get_rng_state(), state)


def move_on_grid(zo, eps, grid=2.0**-22):
    """To where the first step of seed 0 makes its first pass."""
    z = noise_like(zo, 0, 0)
    move(zo, [p + (n * eps / grid).round() * grid for p, n in zip(zo, z, strict=True)])


@pytest.mark.parametrize("bp", [0, 1, 2, "all"])
@pytest.mark.parametrize("where", ["mean", "unperturbed"])
@pytest.mark.parametrize("queries", [1, 2])
def test_batch_norm_counts_one_batch_a_step_that_of_the_first_pass(bp, where, queries):
    model, other = on_grid(normed()), on_grid(normed())
    eps = 0.0625
    optimizer = ElasticZO(model, bp, lr=LR, eps=eps, bp_gradient=where, queries=queries)
    every = list(other.parameters())
    zo = [] if bp == "all" else every[: {0: 10, 1: 8, 2: 4}[bp]]
    move_on_grid(zo, eps)
    other(batch()[0])
    train(model, optimizer, 1)
    assert_same(model.buffers(), other.buffers())
    assert model[1].num_batches_tracked == 1
    train(model, optimizer, 2)
    assert model[1].num_batches_tracked == model[4].num_batches_tracked == 3
    assert not torch.equal(model[1].running_mean, other[1].running_mean)
    model.eval()
    before = [b.clone() for b in model.buffers()]
    train(model, optimizer, 1)
    assert_same(before, model.buffers())


@pytest.mark.parametrize("norm", [
    functools.partial(nn.InstanceNorm1d, track_running_stats=True),
    functools.partial(nn.BatchNorm1d, momentum=None),
    functools.partial(nn.BatchNorm1d, track_running_stats=False),
])  # fmt: skip
def test_other_norms_are_updated_once_a_step_too(norm):
    model, other = (on_grid(nn.Sequential(
        set_weights(nn.Conv1d(3, 4, 1)), norm(4), nn.Flatten(), set_weights(nn.Linear(12, 2)),
    )) for _ in range(2))  # fmt: skip
    x = torch.cos(torch.arange(45.0)).view(5, 3, 3)
    optimizer = ElasticZO(model, 1, lr=LR, eps=0.0625, bp_gradient="unperturbed", queries=2)
    optimizer.step(lambda: model(x).square().mean())
    move_on_grid(list(other.parameters())[:-2], 0.0625)
    other(x)
    assert_same(model.buffers(), other.buffers())
    assert [name for name, _ in model.named_buffers()] == [n for n, _ in other.named_buffers()]
    assert model[1].track_running_stats == other[1].track_running_stats


def test_requires_grad_and_frozen_parameters_are_as_before():
    model = mlp()
    model[3].weight.requires_grad_(False)
    model[5].bias.requires_grad_(False)
    before = parameters(model)
    flags = [p.requires_grad for p in model.parameters()]
    train(model, ElasticZO(model, 1, lr=LR, weight_decay=0.1), 3)
    assert [p.requires_grad for p in model.parameters()] == flags == [1, 1, 0, 1, 1, 0]
    for old, p in zip(before, model.parameters(), strict=True):
        assert torch.equal(old, p) == (not p.requires_grad)
    assert all(p.grad is None for p in list(model.parameters())[:4] + [model[5].bias])
    assert model[5].weight.grad is not None


def test_a_step_under_no_grad_trains_all_the_same():
    runs = []
    for enabled in (True, False):
        model = mlp()
        with torch.set_grad_enabled(enabled):
            train(model, ElasticZO(model, 1, lr=LR), 2)
        runs.append(parameters(model))
    assert_same(*runs)


def saved_shapes(model, optimizer):
    """Shapes of what autograd keeps for backward during a step, parameters left out."""
    own = {p.data_ptr() for p in model.parameters()}
    shapes = []

    def pack(x):
        if x.data_ptr() not in own:
            shapes.append(tuple(x.shape))
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        train(model, optimizer, 1)
    return shapes


def test_autograd_keeps_activations_from_the_first_bp_parameter_on():
    kept = {}
    for bp in (0, 1, 2, "all"):
        model = mlp()
        kept[bp] = saved_shapes(model, ElasticZO(model, bp))
    assert kept[0] == []
    assert (6, 13) in kept[1] and not any(11 in s or 7 in s for s in kept[1])
    assert kept[1].count((6, 13)) == 2  # the last layer's input, in each of the two passes
    assert (6, 11) in kept[2] and not any(7 in s for s in kept[2])
    assert (6, 7) in kept["all"]


def test_only_the_passes_that_give_the_gradient_keep_activations():
    for where in ("plus", "minus", "last", "unperturbed"):
        model = mlp()
        shapes = saved_shapes(model, ElasticZO(model, 1, bp_gradient=where))
        assert shapes.count((6, 13)) == 1, where


def test_a_step_returns_a_detached_loss():
    for bp in (0, 1, "all"):
        model = mlp()
        (loss,) = train(model, ElasticZO(model, bp), 1)
        assert loss.shape == () and not loss.requires_grad and loss.grad_fn is None


def test_estimates_are_the_losses_at_either_side():
    model, other = on_grid(mlp()), on_grid(mlp())
    optimizer = ElasticZO(model, 0, eps=0.25, queries=2, seed=8)
    assert optimizer.estimates == []
    train(model, optimizer, 1)
    theta = parameters(other)
    for query, estimate in enumerate(optimizer.estimates):
        z = noise_like(theta, 8, 0, query)
        losses = []
        for sign in (1, -1):
            moved = [t + sign * 0.25 * n for t, n in zip(theta, z, strict=True)]
            move(list(other.parameters()), moved)
            losses.append(cross_entropy(other, *batch()).item())
        assert (estimate.loss_plus, estimate.loss_minus) == pytest.approx(losses, rel=1e-5)


# --- losses per example, micro-batches ------------------------------------------------------------


def losses_of(model, part=slice(None)):
    x, y = batch(n=12, dtype=torch.float64)
    return F.cross_entropy(model(x[part]), y[part], reduction="none")


def parts_as(form):
    """A closure over micro-batches of unequal size."""

    def parts(model):
        for part in (slice(0, 2), slice(2, 7), slice(7, 12)):
            losses = losses_of(model, part)
            yield losses if form == "vectors" else losses.sum() / 12

    return parts


@pytest.mark.parametrize("where", ["mean", "last", "unperturbed"])
@pytest.mark.parametrize("bp", [0, 1, "all"])
@pytest.mark.parametrize("given", [losses_of, parts_as("vectors"), parts_as("scalars")])
def test_losses_per_example_and_micro_batches_are_the_mean_loss_s_step(given, bp, where):
    runs = []
    for closure in (lambda model: losses_of(model).mean(), given):
        model = mlp(torch.float64)
        optimizer = ElasticZO(model, bp, lr=LR, bp_gradient=where, queries=2)
        losses = [optimizer.step(lambda: closure(model)) for _ in range(3)]  # noqa: B023
        runs.append(([*parameters(model), *losses], [p.grad for p in model.parameters()]))
    for a, b in zip(runs[0][0], runs[1][0], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    for a, b in zip(runs[0][1], runs[1][1], strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-7, atol=1e-10)


def test_a_pass_tells_each_example_s_loss_and_a_micro_batch_s_first_index():
    model, seen = mlp(torch.float64), []
    bp = list(model.parameters())[4:]

    def closure():
        for _ in (run := parts_as("vectors")(model)):
            seen.append(passes.first)
            yield _
        run.close()

    passes = Passes(closure, model, Buffers(model), list(model.parameters())[:4], bp, 1.0)
    with passes:
        found = [passes.loss(Visit(0, 1, taken)) for taken in (False, True)]
    assert seen == [0, 2, 7] * 2
    wanted = losses_of(model).detach()
    for loss in found:
        torch.testing.assert_close(loss.examples, wanted)
        assert loss.mean == pytest.approx(wanted.mean().item(), rel=1e-12)


def test_a_micro_batch_s_graph_is_freed_before_the_next():
    kept = {}
    for n in (1, 8):
        model = nn.Sequential(nn.Linear(7, 3), nn.Linear(3, 50), nn.Tanh(), nn.Linear(50, 5))
        optimizer = ElasticZO(set_weights(model), 2, lr=LR, bp_gradient="last")
        x, y = batch(n=64)

        def closure(model=model, n=n, x=x, y=y):
            for part, labels in zip(x.chunk(n), y.chunk(n), strict=True):
                yield F.cross_entropy(model(part), labels) / n

        alive, most = {}, 0

        def pack(t, alive=alive):
            nonlocal most
            key = object()
            alive[id(key)] = t.numel() * t.element_size()
            most = max(most, sum(alive.values()))
            weakref.finalize(box := Box(t), alive.pop, id(key), None)
            box.key = key
            return box

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
            optimizer.step(closure)
        kept[n] = most
    weights = 4 * (3 * 50 + 50 * 5)  # are saved too, whatever the batch
    assert 0 < kept[8] - weights < (kept[1] - weights) / 6


class Box:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("bp", [0, 1])
@pytest.mark.parametrize(("parts", "words"), [
    (lambda model: iter_of(), "loss of each micro-batch, got none"),
    (lambda model: iter_of(losses_of(model), losses_of(model).mean()), "got both"),
    (lambda model: iter_of(losses_of(model).mean(), losses_of(model)), "got both"),
])  # fmt: skip
def test_micro_batches_that_say_nothing_or_two_things_are_refused(parts, words, bp):
    model = on_grid(mlp(torch.float64))
    before = parameters(model)
    with pytest.raises(ValueError, match=words):
        ElasticZO(model, bp).step(lambda: parts(model))
    assert_same(before, parameters(model))


def iter_of(*values):
    yield from values


# --- errors --------------------------------------------------------------------------------------


def backward_in_closure(model):
    loss = cross_entropy(model, *batch())
    loss.backward()
    return loss


def number_from_closure(model):
    return cross_entropy(model, *batch()).item()


@pytest.mark.parametrize("bp", [0, 1, "all"])
@pytest.mark.parametrize("closure", [
    backward_in_closure,
    lambda model: cross_entropy(model, *batch()).detach(),
    number_from_closure,
])  # fmt: skip
def test_a_closure_that_leaves_nothing_to_differentiate_is_told_so(closure, bp):
    model = on_grid(mlp())
    before = parameters(model)
    optimizer = ElasticZO(model, bp)
    if bp == 0 and closure is not backward_in_closure:
        optimizer.step(lambda: closure(model))  # full ZO asks for nothing but a number
        assert_other(before, parameters(model))
        return
    if closure is number_from_closure:
        error, words = (
            ValueError,
            r"as a tensor, .* got float; return the loss itself, and not loss.item\(\)",
        )
    elif closure is backward_in_closure:
        error, words = RuntimeError, r"leave backward\(\) to step\(\)"
    else:
        error, words = ValueError, r"got one that needs no gradient; leave out detach\(\)"
    with pytest.raises(error, match=words):
        optimizer.step(lambda: closure(model))
    assert_same(before, parameters(model))


def test_other_errors_of_the_closure_pass_unchanged():
    with pytest.raises(RuntimeError, match="^mine$"):
        ElasticZO(mlp(), 1).step(lambda: (_ for _ in ()).throw(RuntimeError("mine")))


def test_a_loss_of_several_numbers_is_refused():
    model = on_grid(mlp())
    before = parameters(model)
    with pytest.raises(
        ValueError, match=r"scalar loss or each example's, \(N,\), got shape \(6, 5\); reduce it"
    ):
        ElasticZO(model, 1).step(lambda: model(batch()[0]))
    assert_same(before, parameters(model))


@pytest.mark.parametrize("arguments", [(), (None,)])
def test_a_missing_closure_is_named(arguments):
    with pytest.raises(ValueError, match="closure that returns the loss, got None; call step"):
        ElasticZO(mlp(), 1).step(*arguments)


@pytest.mark.parametrize(("argument", "message"), [
    ({"queries": 0}, "queries to be an integer of 1 or more, got 0"),
    ({"queries": 1.5}, "queries to be an integer of 1 or more, got 1.5"),
    ({"queries": True}, "queries to be an integer of 1 or more, got True"),
    ({"noise": "normal"}, "noise to be one of gaussian, .*, rademacher-1, got 'normal'"),
    ({"bp_gradient": "both"}, "bp_gradient to be one of mean, plus, minus, last, unperturbed"),
    ({"seed": -1}, r"seed to be an integer in \[0, 2\^64\), got -1"),
    ({"seed": 2**64}, "seed to be an integer"),
    ({"seed": 1.5}, r"seed to be an integer in \[0, 2\^64\), got 1.5"),
    ({"seed": True}, "seed to be an integer"),
    ({"bp": 4}, "expected 0 to 3 BP layers, got 4"),
    ({"bp": "head"}, "got 'head'"),
    (
        {"bp_optimizer": torch.optim.SGD([torch.zeros(1)], 0.1)},
        "bp_optimizer to be a function that returns a torch optimiser .*, got SGD; give for",
    ),
    ({"bp_optimizer": lambda parameters: None}, "got one that returns NoneType; give for"),
])  # fmt: skip
def test_wrong_arguments_are_named(argument, message):
    with pytest.raises(ValueError, match=message):
        ElasticZO(mlp(), **{"bp": 1, **argument})


@pytest.mark.parametrize("chosen", [slice(0, 3), slice(0, 6), slice(1, 5)])
def test_zo_groups_must_hold_the_zo_parameters(chosen):
    model = mlp()
    with pytest.raises(ValueError, match="each of the 4 ZO parameters once"):
        ElasticZO(model, 1, zo_groups=[{"params": list(model.parameters())[chosen]}])


@pytest.mark.parametrize("in_group", [False, True])
@pytest.mark.parametrize(("name", "expected", "values"), [
    ("lr", "a finite number of 0 or more", [-1e-3, "1", True, torch.ones(2)]),
    ("eps", "a finite number above 0", [0.0, -1.0]),
    ("clip", "a finite number above 0, or None", [0.0, -1.0]),
    ("weight_decay", "a finite number of 0 or more", [-0.1, None]),
])  # fmt: skip
def test_wrong_values_are_named(in_group, name, expected, values):
    model = mlp()
    for value in [*values, math.nan, math.inf, torch.tensor(math.inf)]:
        groups = [{"params": list(model.parameters()), name: value}]
        how = {"zo_groups": groups} if in_group else {name: value}
        with pytest.raises(ValueError, match=f"expected {name} to be {expected}, got "):
            ElasticZO(model, 0, **how)


@pytest.mark.parametrize(("group", "got"), [
    ({"params": [], "learning_rate": 0.1}, "learning_rate, params"),
    ({"lr": 0.1}, "lr"),
    ({}, "none"),
    ([nn.Parameter(torch.zeros(1))], "a list"),
])  # fmt: skip
def test_wrong_keys_of_a_group_are_named(group, got):
    model = mlp()
    expected = f"dict of params and any of lr, eps, clip, weight_decay, got {got}; give these keys"
    with pytest.raises(ValueError, match=expected):
        ElasticZO(model, 0, zo_groups=[{"params": model.parameters()}, group])
    with pytest.raises(ValueError, match=expected):
        ElasticZO(model, 0).add_param_group(group)


@pytest.mark.parametrize("add", [
    lambda model, group: ElasticZO(model, 0, zo_groups=[group]),
    lambda model, group: ElasticZO(model, 0).add_param_group(group),
])  # fmt: skip
def test_a_set_of_parameters_is_refused(add):
    model = mlp()
    with pytest.raises(ValueError, match="in an order, got a set, which has none; give a list"):
        add(model, {"params": set(model.parameters())})


def test_a_rate_may_be_a_tensor():
    runs = []
    for lr in (0.5, torch.tensor(0.5)):
        model = mlp()
        optimizer = ElasticZO(model, 1, lr=lr)
        scheduler = SCHEDULERS["cosine"](optimizer)
        for step in range(3):
            train(model, optimizer, 1, first=step)
            scheduler.step()
        runs.append(parameters(model))
        assert type(optimizer.param_groups[0]["lr"]) is type(lr)
    for a, b in zip(*runs, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused_with_the_way_to_one(duplicate):
    model = mlp()
    optimizer = ElasticZO(model, 1, lr=LR)
    train(model, optimizer, 2)
    with pytest.raises(TypeError, match=r"expected a state dict .* got the ElasticZO itself; copy"):
        duplicate(optimizer)
    copied = copy.deepcopy(model)
    again = ElasticZO(copied, 1, lr=LR)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(model, optimizer, 2, first=2)
    train(copied, again, 2, first=2)
    assert_same(model.parameters(), copied.parameters())


def test_help_says_what_bp_means():
    text = " ".join(inspect.getdoc(ElasticZO).split())
    assert "0 for full ZO" in text
    assert "A parametric layer is a module that owns a weight" in text
    assert "in the order in which they were registered" in text


# --- other people's models -----------------------------------------------------------------------


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


def zoo():
    try:
        return import_torchvision().models
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")


def a_mobilenet():
    return zoo().mobilenet_v2(num_classes=4), (2, 3, 32, 32), "classifier"


def a_resnet():
    return zoo().resnet18(num_classes=4), (2, 3, 32, 32), "layer4"


def a_transformer():
    return Classifier(), (2, 7, 5), "head"


def a_pointnet():
    return pointnet.build("pointnet-bn", classes=4), (4, 16, 3), "head"


@pytest.mark.parametrize("build", [a_mobilenet, a_resnet, a_transformer, a_pointnet])
def test_models_of_others_train_unchanged(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, shape, name = build()
        x, y = torch.randn(shape), torch.arange(shape[0]) % 3
    before = copy.deepcopy(model.state_dict())
    optimizer = ElasticZO(model, name, lr=1e-3, clip=5.0)
    loss = optimizer.step(lambda: cross_entropy(model, x, y))
    assert math.isfinite(loss)
    begun, changed = False, 0
    for own_name, p in model.named_parameters():
        begun = begun or own_name.startswith(name)
        assert (p.grad is not None) == begun, own_name
        assert torch.isfinite(p).all()
        changed += not torch.equal(p, before[own_name])
    assert begun and changed >= 0.95 * len(list(model.parameters()))
    counts = [b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    assert all(count == 1 for count in counts)
    assert counts or build is a_transformer


def test_parameters_in_place_of_the_model_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="the module itself, got generator; give the model, not"):
        ElasticZO(mlp().parameters(), 1)


@pytest.mark.parametrize("change", ["memory", "strides", "backend", "frozen"])
def test_weights_that_lie_elsewhere_at_the_next_step_are_found(change):
    def trained(renewed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        x, y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
        optimizer = ElasticZO(model, 0, lr=1e-2, seed=3)
        for step in range(6):
            if step == 3:
                if renewed:
                    state = optimizer.state_dict()
                    optimizer = ElasticZO(model, 0, lr=1e-2, seed=3)
                    optimizer.load_state_dict(state)
                weight = model[0].weight
                if change == "memory":
                    weight.data = weight.data.clone()
                elif change == "strides":
                    weight.data.t_()
                elif change == "frozen":
                    model[2].bias.requires_grad_(False)
            with using("reference") if change == "backend" and step >= 3 else nullcontext():
                optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
        return [p.detach().clone() for p in model.parameters()]

    for one, other in zip(trained(False), trained(True), strict=True):
        assert torch.equal(one, other)
