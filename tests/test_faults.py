"""Faults that users of neighbouring projects reported: each with its whole kind."""

import pytest
import torch
from torch import nn

from ezo import checkpoint, int8
from ezo.train import Run, train
from tests.backends import on
from tests.test_optimizers import INTEGER, Kind, both, float_model, same, weights

F = nn.functional


def modules(kind: Kind, model):
    return model.weighted() if kind is INTEGER else [m for m in model if isinstance(m, nn.Linear)]


# --- a parameter that is frozen after the optimiser was made --------------------------------------


@both
@pytest.mark.parametrize("bp", [0, 1, 2, "all"])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_layer_frozen_between_steps_is_held_and_trains_again_when_thawed(kind, bp, which):
    model, optimizer = kind.make(bp)
    layer = modules(kind, model)[which]
    rest = [p for p in model.parameters() if all(p is not q for q in layer.parameters())]
    kind.train(model, optimizer)
    layer.requires_grad_(False)
    held, others = weights(layer), [p.detach().clone() for p in rest]
    kind.train(model, optimizer, 3, 1)
    assert same(held, weights(layer))
    assert not any(map(torch.equal, others, rest))
    layer.requires_grad_(True)
    kind.train(model, optimizer, 3, 4)
    assert not any(map(torch.equal, held, layer.parameters()))


@both
def test_a_frozen_layer_keeps_its_number_in_the_noise(kind):
    """What the others are moved by does not depend on it."""
    model, optimizer = kind.make(0)
    other, free = kind.make(0)
    modules(kind, model)[1].requires_grad_(False)
    theta = weights(model)
    seen = []
    for which, of in ((model, optimizer), (other, free)):
        of.step(lambda which=which: seen.append(weights(which)) or kind.loss(which))
    first, second = seen[0], seen[2]
    for i, (a, b) in enumerate(zip(first, second, strict=True)):
        assert torch.equal(a, theta[i]) if i in (2, 3) else torch.equal(a, b)


@both
def test_with_everything_frozen_a_step_is_a_pass_that_changes_nothing(kind):
    model, optimizer = kind.make(1)
    model.requires_grad_(False)
    before, calls = weights(model), []
    optimizer.step(lambda: calls.append(1) or kind.loss(model))
    assert same(before, weights(model)) and len(calls) == 1


@both
def test_a_recorded_update_leaves_a_frozen_layer(kind):
    model, optimizer = kind.make(0)
    other, again = kind.make(0)
    for of in (model, other):
        modules(kind, of)[0].requires_grad_(False)
    kind.train(model, optimizer)
    again.replay(optimizer.applied)
    assert same(weights(model), weights(other))


def test_a_frozen_float_parameter_becomes_a_frozen_integer_one():
    model = float_model()
    model[2].requires_grad_(False)
    model[4].bias.requires_grad_(False)
    net = int8.from_float(model, headroom=15)
    assert [layer.moving() for layer in net.weighted()] == [[1, 1], [0, 0], [1, 0]]
    optimizer = int8.ElasticZO(net, 1, rate=60_000)
    before = weights(net)
    INTEGER.train(net, optimizer, 5)
    assert [torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)] == [
        *(False, False),
        *(True, True),
        *(False, True),
    ]
    model[4].requires_grad_(False)  # BP's one layer is then the first, as in floats
    net = int8.from_float(model, headroom=15)
    assert [m is net.weighted()[0] for m in int8.ElasticZO(net, 1)._bp_layers] == [
        True,
        False,
        False,
    ]
    with pytest.raises(ValueError, match="expected bp from 0 to 1 layers or 'all', got 2"):
        int8.ElasticZO(net, 2)


# --- a prediction that depends on the other examples of its batch ---------------------------------


def calibrated(cut=256):
    net = int8.from_float(float_model())
    x = torch.cos(torch.arange(500 * 12) * 0.37).view(500, 12)
    seen = int8.quantize(x[:cut])
    return net.calibrate(seen), x


@pytest.mark.parametrize("backend", ["", "reference"])
def test_an_outlier_changes_no_other_example_s_prediction_in_eval_mode(backend):
    net, x = calibrated()
    with on(backend):
        net.eval()
        e = net.input_exponent
        before = net(int8.quantize_at(x, e))
        x[7] = 1e4
        after = net(int8.quantize_at(x, e))
        rest = [i for i in range(500) if i != 7]
        assert before.e == after.e and torch.equal(before.m[rest], after.m[rest])
        alone = net(int8.quantize_at(x[8:9], e))
        assert alone.e == after.e and torch.equal(alone.m, after.m[8:9])
        net.train()  # where they do depend on it
        x[7] = x[6] * 4
        assert not torch.equal(net(int8.quantize_at(x, e)).m[rest], before.m[rest])


def test_calibration_is_of_its_examples_and_belongs_to_the_state_but_not_to_the_digest():
    net, x = calibrated()
    seen = int8.quantize(x[:256])
    in_training = net(seen)
    assert torch.equal(net.eval()(seen).m, in_training.m)
    state = net.state_dict()
    assert state["layers.0.static_exponents"].tolist()[0] == seen.e
    fresh = int8.from_float(float_model())
    digest = checkpoint.digest(fresh.state_dict())
    assert digest == checkpoint.digest(state)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.eval()(seen).m, in_training.m)
    fresh.load_state_dict({k: v for k, v in state.items() if "static" not in k})
    with pytest.raises(ValueError, match="calibrated network in eval mode.*calibrate"):
        fresh(seen)
    with pytest.raises(ValueError, match=f"exponent {seen.e}, .*got {seen.e + 1}; give.*input_exp"):
        net.eval()(int8.Int8Tensor(seen.m, seen.e + 1))


def test_a_run_in_integers_tells_both_accuracies_and_one_in_floats_one():
    for precision, wanted in (("int8", 1), ("int8*", 1), ("fp32", 0)):
        found = list(train(Run("lenet5", "digits", "full-zo", precision, epochs=0)))
        static = [r for r in found if r.metric == "test_accuracy_static"]
        assert len(static) == wanted and all(0 <= r.value <= 100 for r in static)
        assert [r.metric for r in found][-2:] == ["test_loss", "finished"]
