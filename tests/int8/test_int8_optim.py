"""The integer step: what it does to the weights, bit for bit, and that it learns."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ezo import noise
from ezo.checkpoint import digest
from ezo.int8.convert import from_float
from ezo.int8.loss import ERROR_EXPONENT, LOSS_FRACTION_BITS, Loss
from ezo.int8.optim import ElasticZO
from ezo.int8.passes import ERROR_STREAM, MINUS_STREAM
from ezo.int8.perturb import SparseNoise
from ezo.int8.rounding import bit_width
from ezo.int8.tensor import Int8Tensor, quantize
from tests import sweeps
from tests.backends import on
from tests.oracles import rounding as oracle

NOISE = SparseNoise(r_max=15, p_zero=0.5)


def network(seed=0, sizes=(12, 24, 16, 4)):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = []
        for i, o in zip(sizes, sizes[1:], strict=False):
            layers += [nn.Linear(i, o), nn.ReLU()]
        return from_float(nn.Sequential(*layers[:-1]), headroom=15)


def batch(n=16, seed=1):
    """Four blobs."""
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 4
    centres = torch.randn(4, 12, generator=torch.Generator().manual_seed(9)) * 2
    return quantize(centres[y] + torch.randn(n, 12, generator=g)), y


def weights(model):
    return [p.clone() for p in model.parameters()]


def run(bp, steps=5, model=None, **how):
    model = model or network()
    optimizer = ElasticZO(model, bp, noise=NOISE, **how)
    x, y = batch()
    losses = [optimizer.step(lambda: Loss(model(x), y)).total() for _ in range(steps)]
    return model, optimizer, losses


@pytest.mark.parametrize("isa", ["reference", ""])
@pytest.mark.parametrize("bp", range(4))
def test_a_step_makes_no_floating_point_number(bp, isa):
    model = network()
    optimizer = ElasticZO(model, bp, noise=NOISE, magnitude="absolute")
    x, y = batch()
    seen = []

    class IntegersOnly(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            flat = torch.utils._pytree.tree_leaves([args, kwargs, out])
            for value in flat:
                assert not isinstance(value, float), func
                if isinstance(value, torch.Tensor):
                    assert not value.is_floating_point(), func
                    seen.append(func)
            return out

    with IntegersOnly(), on(isa):
        for _ in range(2):
            loss = optimizer.step(lambda: Loss(model(x), y))
    assert isinstance(loss.total(), int) and len(seen) > (100 if isa else 10)


@pytest.mark.parametrize("bp", range(4))
def test_each_part_moves_by_its_own_rule_and_nothing_else_does(bp):
    model, reference = network(), network()
    before = weights(model)
    optimizer = ElasticZO(model, bp, noise=NOISE, rate=9000, mu=2, seed=3)
    x, y = batch()
    optimizer.step(lambda: Loss(model(x), y))
    cut = 2 * (3 - bp)
    # ZO: the sweep by itself, with the sign of the difference of two passes of a fresh copy
    zo = list(reference.parameters())[:cut]
    if zo:
        place = {"seed": 3, "step": 0}
        totals = []
        for times in (1, -2):
            sweeps.sparse_shift_(zo, NOISE, times=times, **place)
            totals.append(Loss(reference(x), y).total())
        g = (totals[0] > totals[1]) - (totals[0] < totals[1])
        assert optimizer.g == g
        sweeps.sparse_update_(zo, NOISE, g=g, rate=9000, **place)
    for p, q in zip(weights(model)[:cut], zo, strict=True):
        assert torch.equal(p, q)
    for p, old in zip(weights(model)[cut:], before[cut:], strict=True):
        assert 0 < int((p.int() - old.int()).abs().max()) <= 2**2


@pytest.mark.parametrize("isa", ["reference", ""])
@pytest.mark.parametrize("magnitude, rate", [("sign", 9004), ("absolute", 200_000)])
@pytest.mark.parametrize("fraction", [False, True])
def test_each_query_has_its_own_noise_about_the_same_weights(isa, magnitude, rate, fraction):
    model, reference = network(), network()
    x, y = batch()
    with on(isa):
        optimizer = ElasticZO(
            model, 0, noise=NOISE, rate=rate, magnitude=magnitude, queries=3, fraction=fraction
        )
        optimizer.step(lambda: Loss(model(x), y))
        zo, moves = list(reference.parameters()), []
        fractions = [torch.full_like(p, 128, dtype=torch.uint8) for p in zo]
        for query in range(3):
            place = {"seed": 0, "step": 0, "stream": query}
            totals = []
            for times in (1, -2):
                sweeps.sparse_shift_(zo, NOISE, times=times, **place)
                totals.append(Loss(reference(x), y).total())
            sweeps.sparse_shift_(zo, NOISE, times=1, **place)
            difference = totals[0] - totals[1]
            mean = min(abs(difference) // 16, 1 << LOSS_FRACTION_BITS)  # 1 bit by default
            one = rate if magnitude == "sign" else min(rate * mean >> LOSS_FRACTION_BITS, 1 << 16)
            g = (difference > 0) - (difference < 0)
            moves.append({"g": g, "rate": one // 3, "restore": 0, **place})
        for move in reversed(moves):
            sweeps.sparse_update_(zo, NOISE, fractions=fractions if fraction else None, **move)
    assert all(map(torch.equal, weights(model), weights(reference)))
    assert len({move["rate"] for move in moves}) == (1 if magnitude == "sign" else 3)
    assert optimizer.g == moves[-1]["g"]
    assert not all(map(torch.equal, weights(model), weights(network())))


@pytest.mark.parametrize("isa", ["reference", ""])
@pytest.mark.parametrize("where", ["plus", "minus", "mean", "last", "unperturbed"])
@pytest.mark.parametrize("queries", [1, 3])
def test_the_bp_gradient_is_that_of_the_passes_it_says(where, queries, isa):
    """Of the last query's passes, or the sum over all; each rounds its error by its own noise."""
    with on(isa):
        found, passes = gradients(where, queries=queries)
    assert passes == 2 * queries + (where == "unperturbed")
    model, (x, y) = network(), batch()
    zo, last = list(model.parameters())[:2], queries - 1
    at = {"plus": [(last, 1)], "unperturbed": [(last, 0)]}.get(where, [(last, -1)])
    if where == "mean":
        at = [(query, side) for query in range(queries) for side in (1, -1)]
    for i, (query, side) in enumerate(at):
        place = {"seed": 0, "step": 0, "stream": query}
        sweeps.sparse_shift_(zo, NOISE, times=side, **place)
        stream = (MINUS_STREAM if side == -1 else ERROR_STREAM) + 2 * (last - query)
        model.keep(2)
        loss = Loss(model(x), y)
        words = noise.words(0, 0, 0, stream, 0, 1, "cpu").flatten()[: y.numel() * 4].view(-1, 4)
        model.backward(Int8Tensor(loss.error(words), ERROR_EXPONENT), 2)
        sweeps.sparse_shift_(zo, NOISE, times=-side, **place)
        if i == 0 and len(at) > 2:
            for layer in model.weighted()[1:]:
                for name in ("weight_gradient", "bias_gradient"):
                    one = getattr(layer, name)
                    setattr(layer, name, Int8Tensor(one.m.long(), one.e))
    layers = model.weighted()[1:]
    wanted = [g for layer in layers for g in (layer.weight_gradient, layer.bias_gradient)]
    assert len(found) == len(wanted) == 4
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.m, b.m) and a.e == b.e


def test_the_bp_update_is_the_gradient_rounded_to_mu_bits():
    model, seen = network(), {}
    optimizer = ElasticZO(model, 3, noise=NOISE, mu=3)
    before, x, y = weights(model), *batch()

    original = optimizer._bp_step

    def spy(mu):
        for i, layer in enumerate(model.weighted()):
            seen[2 * i], seen[2 * i + 1] = layer.weight_gradient.m, layer.bias_gradient.m
        original(mu)

    optimizer._bp_step = spy
    optimizer.step(lambda: Loss(model(x), y))
    for i, (old, new) in enumerate(zip(before, weights(model), strict=True)):
        s = max(0, bit_width(seen[i]) - 3)
        for w, v, g in zip(
            old.flatten().tolist(), new.flatten().tolist(), seen[i].flatten().tolist(), strict=True
        ):
            assert v == max(-127, min(127, w - oracle.pseudo_stochastic(g, s)))


def gradients(where, bp=2, **how):
    """The BP layers' gradients of one step, and how many passes it took."""
    model, seen, passes = network(), [], []
    optimizer = ElasticZO(model, bp, noise=NOISE, bp_gradient=where, **how)
    original, (x, y) = optimizer._bp_step, batch()

    def spy(mu):
        for layer in optimizer._bp_layers:
            seen.extend([layer.weight_gradient, layer.bias_gradient])
        original(mu)

    def closure():
        passes.append(1)
        return Loss(model(x), y)

    optimizer._bp_step = spy
    optimizer.step(closure)
    return seen, len(passes)


@pytest.mark.parametrize("seed", range(4))
def test_the_mean_of_the_passes_gradients_is_their_rounded_sum(seed):
    plus, minus, mean = (gradients(where, seed=seed)[0] for where in ("plus", "minus", "mean"))
    for a, b, found in zip(plus, minus, mean, strict=True):
        assert not torch.equal(a.m, b.m) and found.m.dtype == torch.int32
        e = max(a.e, b.e)
        wanted = [
            oracle.nearest_unclipped(p, e - a.e) + oracle.nearest_unclipped(q, e - b.e)
            for p, q in zip(a.m.flatten().tolist(), b.m.flatten().tolist(), strict=True)
        ]
        assert found.m.flatten().tolist() == wanted and found.e == e


def test_unperturbed_is_the_gradient_where_no_zo_part_is_perturbed():
    found, passes = gradients("unperturbed")
    wanted, one = gradients("plus", zo=False)
    assert passes == 3 and one == 1 and gradients("mean")[1] == 2
    for a, b in zip(found, wanted, strict=True):
        assert torch.equal(a.m, b.m) and a.e == b.e


@pytest.mark.parametrize("where", ["minus", "mean", "unperturbed"])
def test_where_the_bp_gradient_is_taken_leaves_the_zo_part_alone(where):
    model, _, _ = run(2, 1, bp_gradient=where)
    plus, _, _ = run(2, 1)
    assert torch.equal(weights(model)[0], weights(plus)[0])
    assert not torch.equal(weights(model)[2], weights(plus)[2])


def test_a_tie_and_a_rate_of_0_leave_the_zo_weights_alone():
    model = network()
    before = weights(model)
    x, y = batch()
    still = Int8Tensor(torch.zeros(16, 4, dtype=torch.int32), 0)
    optimizer = ElasticZO(model, 0, noise=NOISE)
    optimizer.step(lambda: Loss(still, y))
    assert optimizer.g == 0
    model, _, _ = run(0, model=model, rate=0)
    assert all(map(torch.equal, before, weights(model)))


@pytest.mark.parametrize("bp", range(4))
@pytest.mark.parametrize("magnitude, rate", [("sign", 32_000), ("absolute", 2_000_000)])
def test_it_learns(bp, magnitude, rate):
    _, _, losses = run(bp, 200, rate=rate, mu=0, magnitude=magnitude)
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_more_queries_learn_faster():
    """At the same rate: the gradient's estimate has less noise."""
    one, more = (run(0, 200, rate=32_000, queries=q, fraction=True)[2] for q in (1, 4))
    assert sum(more[-20:]) < 0.9 * sum(one[-20:])


def test_one_seed_gives_the_same_bits_and_another_other_bits():
    assert run(1)[2] == run(1)[2] != run(1, seed=1)[2]
    assert digest(run(1)[0].state_dict()) == digest(run(1)[0].state_dict())


@pytest.mark.parametrize(
    "bp, wanted", [(0, "322f1261d978f7f1"), (1, "16b93d556693a66f"), (3, "e9f0020f414ad927")]
)
def test_a_thousand_steps_end_in_the_golden_bits_on_any_number_of_threads(bp, wanted):
    for threads in (1, 2):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            model, _, _ = run(bp, 1000, magnitude="absolute", rate=200_000, mu=0)
        finally:
            torch.set_num_threads(before)
        assert digest(model.state_dict())[:16] == wanted


def test_a_state_dict_goes_on_to_the_same_bits():
    how = {"magnitude": "absolute", "rate": 200_000, "queries": 2}
    whole, _, _ = run(1, 8, **how)
    model, optimizer, _ = run(1, 3, **how)
    again = ElasticZO(model, 1, noise=NOISE, seed=77, **how)
    again.load_state_dict(optimizer.state_dict())
    x, y = batch()
    for _ in range(5):
        again.step(lambda: Loss(model(x), y))
    assert all(map(torch.equal, weights(whole), weights(model)))


@pytest.mark.parametrize("at", range(6))
def test_an_exception_in_a_pass_leaves_the_weights_as_they_were(at):
    model = network()
    before, calls = weights(model), []
    x, y = batch()

    def closure():
        calls.append(1)
        if len(calls) > at:
            raise KeyError("no such batch")
        return Loss(model(x), y)

    optimizer = ElasticZO(model, 1, noise=NOISE, queries=3)
    with pytest.raises(KeyError, match="no such batch"):
        optimizer.step(closure)
    assert all(map(torch.equal, before, weights(model)))
    optimizer.step(lambda: Loss(model(x), y))  # a gradient that was left would count
    assert all(map(torch.equal, weights(run(1, 1, queries=3)[0]), weights(model)))


def test_torch_s_global_random_state_is_never_touched():
    state = torch.get_rng_state()
    run(2)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    "how, words",
    [
        ({"bp": 4}, "0 to 3 layers"),
        ({"bp": True}, "0 to 3 layers"),
        ({"rate": -1}, "rate"),
        ({"rate": 0.5}, "rate"),
        ({"rate": 1 << 17}, "rate"),
        ({"mu": 7}, "mu"),
        ({"magnitude": "size"}, "sign, absolute, got 'size'"),
        (
            {"magnitude": "relative"},
            "absolute has beaten; commit 81dd19c, before 0.1.0, is the last",
        ),
        ({"queries": 0}, "queries to be an integer from 1 to 1024, got 0"),
        ({"queries": True}, "queries"),
        ({"bp_gradient": "zero"}, "one of mean, plus, minus, last, unperturbed, got 'zero'"),
        ({"seed": 1.5}, "seed"),
        ({"noise": SparseNoise(63, 0.5)}, "headroom=63"),
    ],
)
def test_bad_arguments_are_named(how, words):
    with pytest.raises(ValueError, match=words):
        ElasticZO(network(), **{"bp": 1, **how})


def test_another_optimiser_s_state_is_refused():
    model = network()
    with pytest.raises(ValueError, match="ezo.int8"):
        ElasticZO(model, 1).load_state_dict(
            torch.optim.SGD([nn.Parameter(torch.ones(1))]).state_dict()
        )


def test_a_float_network_or_input_is_an_error_that_says_how_to_convert():
    with pytest.raises(ValueError, match=r"got Linear; convert it with ezo.int8.from_float"):
        ElasticZO(nn.Linear(2, 3), 1)
    with pytest.raises(ValueError, match=r"expected an Int8Tensor, got Tensor; give ezo.int8.quan"):
        network()(torch.zeros(2, 12))


@pytest.mark.parametrize("bp", [0, 1, 3])
def test_a_closure_that_returns_no_loss_is_told_so_and_the_weights_stay(bp):
    model = network()
    before, (x, y) = weights(model), batch()
    with pytest.raises(ValueError, match=r"ezo.int8.Loss, got float; return Loss\(model\(x\), y\)"):
        ElasticZO(model, bp, noise=NOISE).step(lambda: Loss(model(x), y).mean())
    assert all(map(torch.equal, before, weights(model)))


def test_all_is_as_many_bp_layers_as_there_are():
    ends = []
    for bp in (3, "all"):
        model, _, _ = run(bp, 3)
        ends.append(digest(model.state_dict()))
    assert ends[0] == ends[1]
