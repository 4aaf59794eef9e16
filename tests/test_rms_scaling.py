"""Rates that follow the size of g."""

import copy
import math

import pytest
import torch
from torch import nn

import ezo

F = nn.functional
X, Y = torch.arange(60.0).view(10, 6).cos(), torch.arange(10) % 3


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def made(**how):
    net = model()
    optimizer = ezo.ElasticZO(net, how.pop("bp", 0), lr=1e-3, eps=1e-3, **how)
    return net, optimizer


def slopes(optimizer):
    return [(e.loss_plus - e.loss_minus) / 2e-3 for e in optimizer.estimates]


@pytest.mark.parametrize("queries", [1, 3])
def test_the_rate_is_scaled_by_what_g_was_over_what_it_is(queries):
    net, optimizer = made(queries=queries)
    scaling = ezo.RMSScaling(optimizer, beta=0.9, reference=4)
    square, n, seen = 0.0, 0, []
    for step in range(12):
        optimizer.step(lambda: F.cross_entropy(net(X), Y))
        for g in reversed(slopes(optimizer)):  # the last query is applied first
            square, n = 0.9 * square + 0.1 * g * g, n + 1
        seen.append(math.sqrt(square / (1 - 0.9**n)))
        scaling.step()
        factor = seen[3] / seen[step] if step >= 3 else 1.0
        assert scaling.factor == pytest.approx(factor, rel=1e-4)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * factor, rel=1e-4)
    assert factor != pytest.approx(1, abs=1e-3)


def test_other_schedulers_go_on_beside_it():
    net, optimizer = made()
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    scaling = ezo.RMSScaling(optimizer, beta=0.9, reference=2)
    for _ in range(8):
        optimizer.step(lambda: F.cross_entropy(net(X), Y))
        scaling.step()
        cosine.step()
    course = (1 + math.cos(math.pi * 8 / 20)) / 2
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-3 * course * scaling.factor)


def test_rates_of_bp_and_of_nodes_stay():
    net, optimizer = made(bp=1, nodes=ezo.Nodes(lr=0.02, layers=["0"]))
    with pytest.raises(ValueError, match="weights that zeroth order trains, got none"):
        ezo.RMSScaling(optimizer)
    net = nn.Sequential(nn.Conv1d(1, 2, 3), nn.Flatten(), nn.Linear(8, 8), nn.Linear(8, 3))
    optimizer = ezo.ElasticZO(net, 1, lr=1e-3, nodes=ezo.Nodes(lr=0.02))
    scaling = ezo.RMSScaling(optimizer, beta=0.5, reference=1)
    for _ in range(4):
        optimizer.step(lambda: F.cross_entropy(net(X[:, None]), Y, reduction="none"))
        scaling.step()
    rates = [group["lr"] for group in optimizer.param_groups]
    assert rates[0] != 1e-3 and rates[1:] == [0.02, 0.01]


def test_a_state_goes_on_to_the_same_rates():
    net, optimizer = made()
    scaling = ezo.RMSScaling(optimizer, beta=0.9, reference=2)

    def steps(n, net, optimizer, scaling):
        for _ in range(n):
            optimizer.step(lambda: F.cross_entropy(net(X), Y))
            scaling.step()

    steps(5, net, optimizer, scaling)
    other, again = made()
    later = ezo.RMSScaling(again, beta=0.9, reference=2)
    other.load_state_dict(net.state_dict())
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    later.load_state_dict(scaling.state_dict())
    steps(5, net, optimizer, scaling)
    steps(5, other, again, later)
    assert later.state_dict() == scaling.state_dict()
    assert all(map(torch.equal, net.parameters(), other.parameters()))
    with pytest.raises(ValueError, match="expected the state of RMSScaling, square"):
        later.load_state_dict({"square": 1.0})


def test_a_step_that_learnt_nothing_scales_nothing():
    net, optimizer = made()
    scaling = ezo.RMSScaling(optimizer, reference=1)
    optimizer.step(lambda: F.cross_entropy(net(X), Y) * math.nan)
    scaling.step()
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(lambda: F.cross_entropy(net(X), Y))
    scaling.step()
    assert scaling.state_dict() == ezo.RMSScaling(optimizer, reference=1).state_dict()


@pytest.mark.parametrize(
    ("how", "told"),
    [({"beta": 1.0}, "expected beta"), ({"beta": math.nan}, "expected beta"),
     ({"reference": 0}, "expected reference"), ({"reference": 2.5}, "expected reference")],
)  # fmt: skip
def test_arguments_out_of_range_are_refused(how, told):
    with pytest.raises(ValueError, match=told):
        ezo.RMSScaling(made()[1], **how)
