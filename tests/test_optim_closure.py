"""Everything that a step must leave alone, whatever its closure does and gives."""

import functools
import itertools
import math
import weakref

import pytest
import torch
from torch import nn

from ezo import ElasticZO, Estimate
from ezo.buffers import Buffers
from ezo.passes import Passes
from ezo.step import Visit
from tests.small_networks import (
    LR,
    F,
    assert_other,
    assert_same,
    batch,
    cross_entropy,
    mlp,
    move,
    noise_like,
    normed,
    on_grid,
    parameters,
    set_weights,
    train,
)

# --- what a step must leave alone -----------------------------------------------------------------


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
