"""ElasticZO's groups, schedulers and saved state."""

import functools
import io

import pytest
import torch
from torch import nn

from ezo import ElasticZO
from tests.small_networks import (
    EPS,
    LR,
    SCHEDULERS,
    assert_other,
    assert_same,
    batch,
    cross_entropy,
    mlp,
    move,
    noise_like,
    on_grid,
    parameters,
    train,
)


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
