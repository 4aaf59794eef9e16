"""ElasticZO on other people's models."""

import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from ezo import ElasticZO
from ezo.data._vision import import_torchvision
from ezo.kernels import using
from ezo.models import pointnet
from tests.small_networks import cross_entropy, mlp


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(5, 16)
        layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        return self.head(self.encoder(self.embed(x)).mean(1))


def zoo():
    try:
        return import_torchvision().models
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")


def a_mobilenet():
    return zoo().mobilenet_v2(num_classes=4), (2, 3, 32, 32), "classifier"


def a_resnet():
    return zoo().resnet18(num_classes=4), (2, 3, 32, 32), "layer4"


def a_transformer():
    return Classifier(), (2, 7, 5), "head"


def a_pointnet():
    return pointnet.build("pointnet-bn", classes=4), (4, 16, 3), "head"


@pytest.mark.parametrize("build", [a_mobilenet, a_resnet, a_transformer, a_pointnet])
def test_models_of_others_train_unchanged(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, shape, name = build()
        x, y = torch.randn(shape), torch.arange(shape[0]) % 3
    before = copy.deepcopy(model.state_dict())
    optimizer = ElasticZO(model, name, lr=1e-3, clip=5.0)
    loss = optimizer.step(lambda: cross_entropy(model, x, y))
    assert math.isfinite(loss)
    begun, changed = False, 0
    for own_name, p in model.named_parameters():
        begun = begun or own_name.startswith(name)
        assert (p.grad is not None) == begun, own_name
        assert torch.isfinite(p).all()
        changed += not torch.equal(p, before[own_name])
    assert begun and changed >= 0.95 * len(list(model.parameters()))
    counts = [b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    assert all(count == 1 for count in counts)
    assert counts or build is a_transformer


def test_parameters_in_place_of_the_model_are_an_error_that_says_so():
    with pytest.raises(ValueError, match="the module itself, got generator; give the model, not"):
        ElasticZO(mlp().parameters(), 1)


@pytest.mark.parametrize("change", ["memory", "strides", "backend", "frozen"])
def test_weights_that_lie_elsewhere_at_the_next_step_are_found(change):
    def trained(renewed):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
        x, y = torch.ones(4, 6), torch.tensor([0, 1, 2, 0])
        optimizer = ElasticZO(model, 0, lr=1e-2, seed=3)
        for step in range(6):
            if step == 3:
                if renewed:
                    state = optimizer.state_dict()
                    optimizer = ElasticZO(model, 0, lr=1e-2, seed=3)
                    optimizer.load_state_dict(state)
                weight = model[0].weight
                if change == "memory":
                    weight.data = weight.data.clone()
                elif change == "strides":
                    weight.data.t_()
                elif change == "frozen":
                    model[2].bias.requires_grad_(False)
            with using("reference") if change == "backend" and step >= 3 else nullcontext():
                optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))
        return [p.detach().clone() for p in model.parameters()]

    for one, other in zip(trained(False), trained(True), strict=True):
        assert torch.equal(one, other)
