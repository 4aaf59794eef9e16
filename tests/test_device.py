"""A step whose losses stay on their device: the same bits, and how often it waits."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import ezo
from ezo import capture, passes
from ezo.kernels import using

F = nn.functional


class Waits(TorchDispatchMode):
    """Counts reads of a number, for each of which a device would be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def trained(dtype, bp, away, monkeypatch, steps=4, poison=None, norm=False, **how):
    """Parameters after steps, what the steps said, and the waits of each."""
    torch.manual_seed(0)
    middle = nn.BatchNorm1d(16) if norm else nn.Tanh()
    model = nn.Sequential(nn.Linear(8, 16), middle, nn.Linear(16, 4)).to(dtype)
    x, y = torch.randn(32, 8).to(dtype), torch.randint(0, 4, (32,))
    optimizer = ezo.ElasticZO(model, bp, lr=1e-2, eps=1e-2, clip=1.5, weight_decay=0.1, **how)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    found, waits = [], []
    with monkeypatch.context() as patch, using("reference"):
        if away:
            patch.setattr(passes, "here", lambda x: False)
        for step in range(steps):

            def closure(step=step):
                loss = F.cross_entropy(model(x).float(), y)
                return loss * float("nan") if step == poison else loss

            with Waits() as counted:
                loss = optimizer.step(closure)
            schedule.step()
            waits.append(counted.count)
            found += [loss, *[torch.tensor(e) for e in optimizer.estimates[0][:2]]]
            applied = [u for of in optimizer.applied for u in of[0].groups[0]]
            found += [torch.tensor(applied, dtype=torch.float64)]
    return [*[p.detach() for p in model.parameters()], *found], waits


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("bp", "how"), [(0, {}), (0, {"queries": 2}), (1, {})])
def test_losses_on_a_device_give_the_same_bits_and_one_wait_at_most(dtype, bp, how, monkeypatch):
    here, _ = trained(dtype, bp, False, monkeypatch, **how)
    away, waits = trained(dtype, bp, True, monkeypatch, **how)
    assert_same(here, away)
    assert waits == [1 if bp else 0] * 4


@pytest.mark.parametrize("bp", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loss_that_is_not_finite_leaves_all_as_it_was(bp, dtype, monkeypatch):
    here, _ = trained(dtype, bp, False, monkeypatch, poison=2)
    away, _ = trained(dtype, bp, True, monkeypatch, poison=2)
    assert_same(here, away)


def test_a_model_whose_passes_write_buffers_waits_once(monkeypatch):
    here, _ = trained(torch.float32, 0, False, monkeypatch, norm=True)
    away, waits = trained(torch.float32, 0, True, monkeypatch, norm=True)
    assert_same(here, away)
    assert waits[1:] == [1, 1, 1]  # the first learns which are written


class Again:
    """A graph that runs its function once more: what it reads must lie where a graph can see it."""

    def record(self, function):
        self._function = function
        with torch.no_grad():
            return None

    def replay(self):
        self.found = self._function()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bp", [0, 1])
def test_a_captured_step_follows_its_numbers_and_schedules(dtype, bp, monkeypatch):
    plain, _ = trained(dtype, bp, True, monkeypatch, steps=7)
    monkeypatch.setattr(capture, "DEVICE", "cpu")
    monkeypatch.setattr(capture, "Graph", Again)

    def replay(self, step):
        replayed(self, step)
        return self._graph.found

    replayed = capture.Captured.replay
    monkeypatch.setattr(capture.Captured, "replay", replay)
    captured, waits = trained(dtype, bp, True, monkeypatch, steps=7, capture=True)
    assert_same(plain, captured)
    assert waits[capture.WARM_UP_STEPS :] == [1 if bp else 0] * 4


def test_a_step_that_can_t_be_captured_says_so(monkeypatch):
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    with pytest.raises(ValueError, match="weights on cuda and no nodes.* got some on cpu"):
        ezo.ElasticZO(model, 0, capture=True)
    monkeypatch.setattr(capture, "DEVICE", "cpu")
    optimizer = ezo.ElasticZO(model, 0, capture=True)
    with pytest.raises(ValueError, match="draw no random numbers"):
        optimizer.step(lambda: model(torch.ones(2, 4)).mean())
