"""What ElasticZO says of wrong arguments, groups and closures."""

import copy
import inspect
import math
import pickle

import pytest
import torch
from torch import nn

from ezo import ElasticZO
from tests.small_networks import (
    LR,
    SCHEDULERS,
    assert_other,
    assert_same,
    batch,
    cross_entropy,
    mlp,
    on_grid,
    parameters,
    train,
)


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
