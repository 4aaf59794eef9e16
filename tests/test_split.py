"""Where ZO ends and BP begins."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import ezo
from ezo.models import lenet5, pointnet
from ezo.split import layers, split


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.hidden = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embedding.weight


class Own(nn.Module):
    """Parameters of the model's own, before those of its modules."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.inner = nn.Linear(3, 3)
        self.table = nn.Parameter(torch.ones(3, 3))


def mlp():
    return nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)
    )


def names(model, parameters):
    known = {id(p): name for name, p in model.named_parameters()}
    return [known[id(p)] for p in parameters]


def test_layers_of_lenet5():
    found = layers(lenet5.build("lenet5"))
    assert [name for name, _ in found] == ["0", "3", "7", "9", "11"]
    sizes = [sum(p.numel() for p in parameters) for _, parameters in found]
    assert sizes == [156, 2416, 94200, 10164, 850] and sum(sizes) == 107_786


def test_norms_belong_to_the_layer_before_them():
    model = pointnet.build("pointnet-bn")
    found = layers(model)
    assert len(found) == 8
    assert names(model, found[0][1]) == [
        "points.0.weight", "points.0.bias", "points.1.weight", "points.1.bias",
    ]  # fmt: skip


def test_a_first_norm_is_a_layer_of_its_own():
    assert [n for n, _ in layers(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2)))] == ["0", "1"]


def test_frozen_parameters_are_in_no_layer_and_no_part():
    model = mlp()
    model[0].requires_grad_(False)
    model[5].bias.requires_grad_(False)
    assert [name for name, _ in layers(model)] == ["1", "3", "5"]
    zo, bp = split(model, 1)
    assert names(model, zo) == ["1.weight", "1.bias", "3.weight", "3.bias"]
    assert names(model, bp) == ["5.weight"]


@pytest.mark.parametrize("bp", [*range(6), "all", "0", "3", "9.bias", "11"])
def test_the_parts_are_all_parameters_once_in_order(bp):
    model = lenet5.build("lenet5")
    zo, last = split(model, bp)
    assert [id(p) for p in zo + last] == [id(p) for p in model.parameters()]


@pytest.mark.parametrize(("bp", "first"), [
    (0, None), (1, "5.weight"), (2, "3.weight"), (3, "0.weight"), ("all", "0.weight"),
    ("1", "1.weight"), ("1.bias", "1.bias"), ("2", "3.weight"), ("5", "5.weight"),
])  # fmt: skip
def test_where_bp_begins(bp, first):
    model = mlp()
    _, last = split(model, bp)
    every = [name for name, _ in model.named_parameters()]
    assert names(model, last) == ([] if first is None else every[every.index(first) :])


def test_parameters_may_be_given_one_by_one():
    model = mlp()
    chosen = [model[5].weight, model[0].bias]
    for bp in (chosen, iter(chosen), tuple(chosen)):
        zo, last = split(model, bp)
        assert names(model, last) == ["0.bias", "5.weight"]
        assert len(zo) == 6
    assert names(model, split(model, model[3].weight)[1]) == ["3.weight"]


def test_a_submodule_stands_for_its_parameters():
    model = mlp()
    assert names(model, split(model, model[3])[1]) == ["3.weight", "3.bias"]
    assert names(model, split(model, model[:2])[1]) == names(model, list(model[:2].parameters()))
    assert split(model, model)[0] == []


@pytest.mark.parametrize("bp", [
    lambda model: [], lambda model: model.hidden, lambda model: model.hidden.parameters(),
    lambda model: "hidden", lambda model: "head",
])  # fmt: skip
def test_a_bp_part_with_nothing_to_train_is_refused(bp):
    model = Tied()  # the head's weight stands where the embedding's does
    model.hidden.requires_grad_(False)
    with pytest.raises(ValueError, match=r"tied weights\), got none; give .* bp=0 for full ZO"):
        split(model, bp(model))
    assert split(model, 0)[1] == []


def test_a_frozen_parameter_that_is_given_stays_out():
    model = mlp()
    model[5].weight.requires_grad_(False)
    assert names(model, split(model, model[5].parameters())[1]) == ["5.bias"]


def test_a_shared_parameter_stands_where_it_stands_first():
    model = Tied()
    assert [name for name, _ in layers(model)] == ["embedding", "hidden"]
    zo, bp = split(model, "hidden")
    assert names(model, zo) == ["embedding.weight"]
    assert names(model, bp) == ["hidden.weight", "hidden.bias"]
    with pytest.warns(UserWarning, match=TIED):
        assert names(model, split(model, 1)[1]) == ["hidden.weight", "hidden.bias"]


TIED = (
    "bp=1: head has the weight of embedding and stands where that does; the order is embedding, "
    "hidden. BP begins at hidden: name it to say so, or untie head and give bp='head'"
)


def test_a_head_that_was_untied_is_the_last_layer():
    model = Tied()
    model.head.weight = nn.Parameter(model.head.weight.detach().clone())
    assert names(model, split(model, 1)[1]) == names(model, split(model, "head")[1])
    assert names(model, split(model, "head")[1]) == ["head.weight"]


@pytest.mark.parametrize("bp", [
    lambda model: ["0", "5.bias"], lambda model: [model[0], "5.bias"],
    lambda model: iter([model[0].weight, "0.bias", model[5].bias]),
])  # fmt: skip
def test_several_names_and_modules_stand_for_their_parameters(bp):
    model = mlp()
    zo, last = split(model, bp(model))
    assert names(model, last) == ["0.weight", "0.bias", "5.bias"]
    assert len(zo) + 3 == len(list(model.parameters()))


def test_a_tied_head_that_is_listed_is_trained_by_bp():
    model = Tied()
    assert names(model, split(model, ["head"])[1]) == ["embedding.weight"]


def test_parameters_of_the_model_itself_stand_before_its_modules():
    model = Own()
    assert [name for name, _ in layers(model)] == ["", "inner"]
    assert names(model, split(model, "table")[1]) == ["table", "inner.weight", "inner.bias"]
    assert names(model, split(model, 1)[1]) == ["inner.weight", "inner.bias"]


@pytest.mark.parametrize("norm", [parametrizations.weight_norm, parametrizations.spectral_norm])
def test_a_parametrized_weight_stands_where_its_bias_does(norm):
    model = nn.Sequential(*[norm(nn.Linear(4, 4)) for _ in range(3)])
    assert [name for name, _ in layers(model)] == ["0", "1", "2"]
    for k in (1, 2):
        bp = names(model, split(model, k)[1])
        assert bp == [n for n, _ in model.named_parameters() if int(n[0]) >= 3 - k]
        assert names(model, split(model, str(3 - k))[1]) == bp


def test_split_is_public():
    assert ezo.split is split and ezo.layers is layers


@pytest.mark.parametrize(("bp", "message"), [
    (-1, r"0 to 3 BP layers, got -1; the parametric layers are 0, 3, 5"),
    (4, r"0 to 3 BP layers, got 4"),
    (True, "number of layers, a name, a submodule or parameters, got True"),
    (1.5, "number of layers, a name, a submodule or parameters, got 1.5"),
    (None, "number of layers, a name, a submodule or parameters, got None"),
    ("head", "name a submodule or parameter of the model, got 'head'; known: 0, 0.weight"),
    ("", "name a submodule or parameter of the model, got ''"),
    (["0", "head"], "name a submodule or parameter of the model, got 'head'; known: "),
    ([""], "name a submodule or parameter of the model, got ''"),
    ([None], r"others at positions \[0\]"),
    ([torch.zeros(3)], r"others at positions \[0\]"),
    ([nn.Linear(1, 1).weight], "expected parameters of the model"),
    (nn.Linear(1, 1), r"expected parameters of the model, got others at positions \[0, 1\]"),
])  # fmt: skip
def test_what_bp_may_not_be(bp, message):
    with pytest.raises(ValueError, match=message):
        split(mlp(), bp)


@pytest.mark.parametrize("model", [nn.ReLU(), nn.Linear(2, 2).requires_grad_(False)])
def test_a_model_with_nothing_to_train_is_refused(model):
    with pytest.raises(ValueError, match="requires_grad=True"):
        split(model, 0)


class Turned(nn.Module):
    """Registers its last layer first."""

    def __init__(self) -> None:
        super().__init__()
        self.last, self.first = nn.Linear(8, 3), nn.Linear(4, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.last(self.first(x).relu())
        return out


@pytest.mark.parametrize("bp", [1, "last", 0, "all"])
def test_a_last_layer_that_does_not_run_last_is_told_once(bp: int | str) -> None:
    model, x, y = Turned(), torch.ones(2, 4), torch.tensor([0, 1])
    optimizer = ezo.ElasticZO(model, bp)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
    told = [str(w.message) for w in caught if "others run behind them" in str(w.message)]
    assert len(told) == (bp == 1) and all("(last)" in words for words in told)
    assert not model.last._forward_pre_hooks


def test_layers_that_run_in_their_order_are_not_told(recwarn: pytest.WarningsRecorder) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.ones(2, 4), torch.tensor([0, 1])
    optimizer = ezo.ElasticZO(model, 1)
    optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
    assert not [w for w in recwarn if "run behind" in str(w.message)]
