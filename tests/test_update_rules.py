"""The example of update rules: what it replays is what it says."""

import importlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ezo

F = nn.functional
EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("update_rules")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


X, Y = torch.arange(60.0).view(10, 6).cos(), torch.arange(10) % 3


def trained(example: Any, name: str, steps: int, lr: float, **how: Any) -> list[torch.Tensor]:
    net = model()
    rule = example.Rule(net, name, example.Setting("digits", **how))
    for _ in range(steps):
        rule.step(lambda: F.cross_entropy(net(X), Y), lr)
    return [p.detach().clone() for p in net.parameters()]


def test_the_plain_rule_is_the_optimiser_s_own_step(example: Any) -> None:
    net = model()
    of = example.Setting("digits")
    optimizer = ezo.ElasticZO(net, 0, lr=1e-3, eps=of.eps, clip=of.clip, seed=of.seed)
    for _ in range(8):
        optimizer.step(lambda: F.cross_entropy(net(X), Y))
    found = trained(example, "plain", 8, 1e-3)
    for p, own in zip(net.parameters(), found, strict=True):
        assert torch.allclose(p, own, atol=1e-6) and not torch.equal(own, torch.zeros_like(own))


def test_momentum_makes_earlier_updates_again(example: Any) -> None:
    """Of two steps at weights that hardly move: z_1 counts 1 + beta times."""
    lr, beta = 1e-5, 0.5
    began = [p.detach().clone() for p in model().parameters()]
    one = trained(example, "plain", 1, lr)
    two = trained(example, "plain", 2, lr)
    found = trained(example, "momentum", 2, lr / (1 - beta), beta=beta, history=4)
    for start, first, second, p in zip(began, one, two, found, strict=True):
        wanted = second + beta * (first - start)
        assert torch.allclose(p, wanted, atol=2e-7)
    short = trained(example, "momentum", 2, lr / (1 - beta), beta=beta, history=1)
    assert all(torch.allclose(p, q, atol=2e-7) for p, q in zip(short, two, strict=True))


def test_rms_divides_by_a_running_mean(example: Any) -> None:
    rule = example.Rule(model(), "rms", example.Setting("digits", beta2=0.9))
    assert rule._scaled(4.0) == pytest.approx(1.0)
    rule.steps = 1
    assert rule._scaled(2.0) == pytest.approx(2 / math.sqrt((0.09 * 16 + 0.1 * 4) / 0.19))


def test_scaling_multiplies_by_what_g_was_over_what_it_is(
    example: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example, "REFERENCE", 2)
    rule = example.Rule(model(), "scaling", example.Setting("digits", beta2=0.9))
    rms, square, found = [], 0.0, []
    for n, g in enumerate((4.0, 2.0, 3.0, 1.0), 1):
        found.append(rule._scaled(g))
        rule.steps += 1
        square = 0.9 * square + 0.1 * g * g
        rms.append(math.sqrt(square / (1 - 0.9**n)))
    # a step is scaled by the steps before it
    assert found == pytest.approx([4.0, 2.0, 3.0, 1.0 * rms[1] / rms[2]])
