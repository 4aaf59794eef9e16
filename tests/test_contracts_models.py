"""What every model must satisfy. Letters: N examples, C channels or coordinates, P points."""

import pytest
import torch
from torch import nn

from ezo import catalogue, checkpoint
from ezo.data import shapes_upright
from ezo.models import pointnet
from ezo.split import layers
from ezo.train import Run, build
from tests.members import built, every_model, inputs


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    return checkpoint.digest(a.state_dict()) == checkpoint.digest(b.state_dict())


@every_model
def test_model_says_what_it_takes(name: str) -> None:
    assert catalogue.find("model", name).INPUT in ("image", "points")


@every_model
@pytest.mark.parametrize(("classes", "channels"), [(10, 1), (7, 3)])
def test_model_gives_finite_logits(name: str, classes: int, channels: int) -> None:
    model = built(name, classes, channels)
    for mode in (model.train(), model.eval()):
        logits = mode(inputs(name, channels))
        assert logits.shape == (4, classes)
        assert logits.dtype == torch.float32 and torch.isfinite(logits).all()


@every_model
@pytest.mark.parametrize("size", [(32, 32), (29, 47)])
def test_a_model_of_images_takes_any_size_and_rgb(name: str, size: tuple[int, int]) -> None:
    if catalogue.find("model", name).INPUT != "image" or name in ("tiny", "plain"):
        return
    model = build(Run(name, "digits", "full-zo"), 5, 3, size).eval()
    with torch.no_grad():
        assert model(torch.zeros(2, 3, *size)).shape == (2, 5)


@every_model
def test_model_in_evaluation_sees_each_example_by_itself(name: str) -> None:
    model, x = built(name, channels=3).eval(), inputs(name, 3)
    before = torch.get_rng_state()
    with torch.no_grad():
        whole, parts = model(x), torch.cat([model(x[:1]), model(x[1:])])
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-5)
    assert not torch.equal(whole[0], whole[1])
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_building_leaves_the_global_generator_as_it_was(name: str) -> None:
    before = torch.get_rng_state()
    built(name)
    assert torch.equal(torch.get_rng_state(), before)


@every_model
def test_initial_weights_depend_on_the_seed_alone(name: str) -> None:
    first = built(name, seed=5)
    torch.rand(3)
    assert same_weights(first, built(name, seed=5))
    assert not same_weights(first, built(name, seed=6))


@every_model
def test_layers_of_a_model_hold_each_parameter_once(name: str) -> None:
    model = built(name, classes=7)
    found = layers(model)
    assert len(found) >= 2
    assert [id(p) for _, own in found for p in own] == [id(p) for p in model.parameters()]
    assert found[-1][1][0].shape[0] == 7
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "classes", "parameters"),
    [
        ("lenet5", 10, 107_786),
        ("mobilenet_v2", 10, 2_236_106),  # with one channel
        ("pointnet", 40, 815_400),
        ("pointnet-he", 40, 815_400),
        ("pointnet-centred", 40, 815_400),
        ("pointnet-bn", 40, 819_624),
    ],
)
def test_models_have_the_papers_number_of_parameters(
    name: str, classes: int, parameters: int
) -> None:
    assert sum(p.numel() for p in built(name, classes).parameters()) == parameters


def test_clouds_are_told_apart_by_he_weights_without_batch_norm() -> None:
    def spread(name: str) -> float:
        """Of the logits over clouds."""
        x = torch.randn(16, 32, 3, generator=torch.Generator().manual_seed(0))
        return built(name, 16)(x).std(0).mean().item()

    assert spread("pointnet-he") > 5 * spread("pointnet")


def test_what_clouds_share_is_taken_from_centred_weights() -> None:
    """Over other clouds, too, each unit before the last layer is as often on as off, and the
    logits' mean is small beside their spread."""
    model = built("pointnet-centred", 16)
    assert isinstance(model, pointnet.PointNet)
    x = shapes_upright.load("shapes-upright-64").train_x[:256]
    before = model.head[:-2](model.points(x.transpose(1, 2)))
    assert 0.3 < (before > 0).float().mean() < 0.7
    logits = model(x)
    assert 0.1 < logits.std(0).mean() < 0.6
    plain = built("pointnet-he", 16)(x)
    share = [of.mean(0).norm() / of.std(0).norm() for of in (logits, plain)]
    assert share[0] < 0.5 * share[1]


def test_centred_weights_lie_on_a_grid_and_are_the_same_each_time() -> None:
    state = torch.get_rng_state()
    clouds = pointnet.random_clouds(3)
    assert torch.equal(state, torch.get_rng_state()) and torch.equal(
        clouds, pointnet.random_clouds(3)
    )
    assert (
        clouds.mean(1).abs().max() < 1e-9 and clouds.norm(dim=2).amax(1).sub(1).abs().max() < 1e-9
    )
    for p in built("pointnet-centred", 16).parameters():
        steps = p.double() / pointnet.GRID
        assert torch.equal(steps, steps.round())
