"""The example of what else could teach beside nodes: each variant does what it says."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ezo

F = nn.functional
EXAMPLES = Path(__file__).parent.parent / "examples"
X = torch.randn(10, 1, 6, 6, generator=torch.Generator().manual_seed(1))
Y = torch.arange(10) % 3


@pytest.fixture(scope="module")
def example() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        yield importlib.import_module("node_variants")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 3, 3), nn.Flatten(), nn.Linear(12, 3)
    )


def trained(example: Any, name: str, steps: int, **how: Any) -> list[torch.Tensor]:
    net = model()
    trainer = example.Trainer(net, name, 1.0, example.Setting("digits", **how))
    for _ in range(steps):
        trainer.step(X, Y, 1.0)
    return [p.detach().clone() for p in net.parameters()]


def test_the_plain_variant_is_the_optimiser_s_own_step(example: Any) -> None:
    net, of = model(), example.Setting("digits")
    optimizer = ezo.ElasticZO(
        net, 0, lr=of.lr, eps=of.eps, clip=of.clip, seed=of.seed, nodes=ezo.Nodes(lr=of.lr_node)
    )
    for _ in range(4):
        optimizer.step(lambda: F.cross_entropy(net(X), Y, reduction="none"))
    for p, own in zip(net.parameters(), trained(example, "plain", 4), strict=True):
        assert torch.equal(p, own)


def test_momentum_of_one_step_is_the_plain_step(example: Any) -> None:
    """But for 1 - beta, by which its updates add up; nodes learn as ever."""
    plain = trained(example, "plain", 3)
    found = trained(example, "momentum", 3, beta=0.5, history=1, lr=6e-4)
    for p, own in zip(plain, found, strict=True):
        assert torch.allclose(p, own, atol=1e-6)
    more = trained(example, "momentum", 3, beta=0.5, history=3, lr=6e-4)
    assert not torch.allclose(plain[0], more[0], atol=1e-6)


def test_flipout_s_mean_is_the_gradient(example: Any) -> None:
    """Over many draws, of the convolutions' weights and biases together."""
    net, of = model(), example.Setting("digits", eps=1e-3, lr_flipout=1.0, clip_flipout=1e6)
    F.cross_entropy(net(X), Y).backward()
    flipout = example.Flipout(net, 1.0, of)
    wanted = torch.cat([p.grad.flatten() for p in flipout.parameters])
    total, draws = torch.zeros_like(wanted), 1500
    for _ in range(draws):
        with torch.no_grad(), flipout.passes():
            plus, minus = (F.cross_entropy(net(X), Y, reduction="none") for _ in range(2))
        found = flipout.estimates((plus - minus) / 2)
        total.add_(torch.cat([p.flatten() for p in found]), alpha=1 / draws)
    assert F.cosine_similarity(total, wanted, dim=0) > 0.93
    assert total.norm() / wanted.norm() == pytest.approx(1, abs=0.12)
    before = [p.detach().clone() for p in flipout.parameters]
    flipout.learn((plus - minus) / 2, 0.5)
    for p, old, estimate in zip(flipout.parameters, before, found, strict=True):
        assert torch.allclose(p, old - 0.5 * estimate)
