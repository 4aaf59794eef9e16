"""What every method must satisfy, k BP layers."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ezo import catalogue, checkpoint, methods
from ezo.methods import Hyper
from ezo.split import layers
from ezo.train import Run, train
from tests.members import DEEPEST, built, channels_of, concrete, concrete_methods, inputs

pytestmark = pytest.mark.usefixtures("tiny")  # the tiny networks and data


on_every_network = pytest.mark.parametrize(
    ("network", "method"),
    [(n, m) for n in ("tiny", "lenet5") for m in concrete_methods(DEEPEST[n])],
)
on_tiny = pytest.mark.parametrize("method", concrete_methods(DEEPEST["tiny"]))


class Steps:
    """A method's steps on one batch, always the same, with random numbers of its own."""

    def __init__(self, network: str, method: str, seed: int = 0, **hyper: Any) -> None:
        self.classes = 3 if network == "tiny" else 10
        self.model = built(network, self.classes)
        self.x = inputs(network, channels_of(network))
        if network == "tiny":
            self.x = self.x[..., :4, :4]
        self.y = torch.arange(len(self.x)) % self.classes
        self.start = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        own = dataclasses.replace(methods.default(method), **hyper)
        self.optimizer: Any = methods.optimizer(method, self.model, own, seed)
        self.model.train()
        self.random_state = torch.Generator().manual_seed(11).get_state()

    def closure(self) -> Tensor:
        """The loss, or each example's where the method learns from these."""
        reduction = "none" if self.optimizer.needs_examples else "mean"
        return nn.functional.cross_entropy(self.model(self.x), self.y, reduction=reduction)

    def step(self, steps: int = 1) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self.random_state)
            for _ in range(steps):
                loss: Tensor = self.optimizer.step(self.closure)
            self.random_state = torch.get_rng_state()
        return loss

    def changed(self) -> list[str]:
        """Names of parameters that moved by more than snapping to a grid does."""
        return [
            name
            for name, p in self.model.named_parameters()
            if (p.detach() - self.start[name]).abs().max() > 1e-6
        ]

    def digest(self) -> str:
        return checkpoint.digest({**self.model.state_dict(), "random state": self.random_state})


@on_every_network
def test_step_gives_a_finite_loss(network: str, method: str) -> None:
    steps = Steps(network, method)
    expected = steps.closure().mean().item()  # at the initial weights, another dropout mask on tiny
    loss = steps.step()
    assert loss.shape == () and not loss.requires_grad
    assert loss.item() == pytest.approx(expected, rel=1e-2 if network == "lenet5" else 0.5)


@on_every_network
def test_step_changes_the_parameters_it_should(network: str, method: str) -> None:
    steps = Steps(network, method)
    every = [name for name, _ in steps.model.named_parameters()]
    expected = every
    if method.startswith("tail-only-"):
        trained = layers(built(network))[-catalogue.number(method) :]
        expected = every[-sum(len(parameters) for _, parameters in trained) :]
    steps.step(2)
    assert steps.changed() == expected
    for name, p in steps.model.named_parameters():
        assert name in expected or torch.equal(p, steps.start[name])


@on_tiny
def test_steps_lower_the_loss(method: str) -> None:
    # The nodes' noise is noise to the weights' g, of which a high rate would make a random walk.
    rates = {"lr": 1e-3, "lr_node": 0.2} if "node" in method else {"lr": 3e-2}
    steps = Steps("tiny", method, bp_lr=0.05, **rates)

    def loss() -> float:
        steps.model.eval()
        with torch.no_grad():
            value = steps.closure().mean().item()
        steps.model.train()
        return value

    steps.step(20)  # batch norm's running statistics settle
    before = loss()
    steps.step(120)
    assert loss() < 0.8 * before


@on_every_network
def test_steps_depend_on_the_seed_alone(network: str, method: str) -> None:
    first, again = Steps(network, method), Steps(network, method)
    first.step(2)
    torch.rand(3)
    again.step(2)
    assert first.digest() == again.digest()


@pytest.mark.parametrize("method", ["full-zo", "elastic-1", "elastic-2"])
def test_noise_depends_on_the_seed(method: str) -> None:
    first, other = Steps("tiny", method, seed=0), Steps("tiny", method, seed=1)
    first.step()
    other.step()
    assert first.digest() != other.digest()


@on_tiny
def test_step_draws_random_numbers_as_one_forward_pass_does(method: str) -> None:
    steps = Steps("tiny", method)
    torch.manual_seed(4)
    steps.closure()
    after_forward = torch.get_rng_state()
    torch.manual_seed(4)
    steps.optimizer.step(steps.closure)
    assert torch.equal(torch.get_rng_state(), after_forward)


@on_tiny
def test_method_updates_running_statistics_once_a_step(method: str) -> None:
    steps = Steps("tiny", method)
    steps.step(3)
    norm: Any = steps.model.get_submodule("2")
    assert norm.num_batches_tracked == 3
    assert norm.track_running_stats and steps.model.training


@on_every_network
def test_method_goes_on_from_its_state_to_the_same_bits(
    network: str, method: str, tmp_path: Path
) -> None:
    steps, resumed = Steps(network, method), Steps(network, method, seed=1)
    steps.step(2)
    checkpoint.save(
        tmp_path / "c", [steps.model.state_dict(), steps.optimizer.state_dict(), steps.random_state]
    )
    steps.step(2)
    model, optimizer, resumed.random_state = checkpoint.load(tmp_path / "c")
    resumed.model.load_state_dict(model)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.step(2)
    assert resumed.digest() == steps.digest()


@on_tiny
def test_learning_rates_are_in_the_parameter_groups(method: str) -> None:
    steps = Steps("tiny", method)
    assert len({id(p) for group in steps.optimizer.param_groups for p in group["params"]}) == sum(
        p.requires_grad for p in steps.model.parameters()
    )
    for group in steps.optimizer.param_groups:
        group["lr"] = 0.0
    steps.step(2)
    assert steps.changed() == []


@pytest.mark.parametrize("network", ["tiny", "lenet5"])
@pytest.mark.parametrize(("ends", "same_as"), [("elastic-0", "full-zo"), ("elastic-{}", "full-bp")])
def test_elastic_at_its_ends_is_the_full_method(network: str, ends: str, same_as: str) -> None:
    elastic = Steps(network, ends.format(DEEPEST[network]))
    full = Steps(network, same_as)
    elastic.step(3)
    full.step(3)
    assert elastic.digest() == full.digest()


@pytest.mark.parametrize("network", DEEPEST)
def test_activation_checkpointing_changes_no_bit(network: str) -> None:
    plain, stored = Steps(network, "full-bp"), Steps(network, "full-bp-checkpoint")
    for _ in range(3):
        assert torch.equal(plain.step(), stored.step())
    assert plain.digest() == stored.digest()
    with torch.no_grad():
        assert torch.equal(plain.model.eval()(plain.x), stored.model.eval()(plain.x))


def saved_bytes(steps: Steps) -> int:
    """Of tensors that autograd keeps for the backward pass, without parameters, each once."""
    parameters = {p.data_ptr() for p in steps.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = steps.closure()
    assert loss.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("network", ["lenet5", "pointnet-bn"])
def test_activation_checkpointing_keeps_less(network: str) -> None:
    stored = saved_bytes(Steps(network, "full-bp-checkpoint"))
    assert 0 <= stored < saved_bytes(Steps(network, "full-bp")) / 2


def test_activation_checkpointing_keeps_a_sequentials_own_forward() -> None:
    class Residual(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return x + super().forward(x)

    model = Residual(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.ReLU()))
    x = torch.ones(2, 3)
    expected = model(x)
    methods.optimizer("full-bp-checkpoint", model, Hyper(), 0)
    assert torch.equal(model(x), expected)
    assert "forward" in vars(model[1])


@pytest.mark.parametrize("method", ["elastic-6", "tail-only-6"])
def test_more_bp_layers_than_there_are_is_an_error_that_names_them(method: str) -> None:
    with pytest.raises(ValueError, match="expected 0 to 5 BP layers, got 6; .* 0, 3, 7, 9, 11"):
        Steps("lenet5", method)


@pytest.mark.parametrize(
    "module", list(catalogue.members("method")), ids=lambda module: str(module.__name__)
)
def test_method_has_default_hyperparameters(module: ModuleType) -> None:
    assert isinstance(methods.default(concrete(module.NAMES[0])), Hyper)


OTHER: dict[str, Any] = {
    "lr": 1e-3, "eps": 5e-3, "clip": 0.01, "queries": 2, "noise": "rademacher", "weight_decay": 0.1,
    "bp_gradient": "plus", "bp_lr": 0.02, "momentum": 0.5, "schedule": "constant",
    "lr_node": 2e-3, "sigma": 0.2, "eta": 0.3,
}  # fmt: skip


@pytest.mark.parametrize("method", concrete_methods(deepest=1))
def test_method_reads_the_hyperparameters_that_it_says(method: str) -> None:
    """The others may be anything: not a bit changes."""

    def weights(**changed: Any) -> str:
        hyper = dataclasses.replace(methods.default(method), **changed)
        run = Run("tiny", "tiny-images", method, epochs=1, batch_size=8, hyper=hyper)
        return list(train(run))[-1].note

    first = weights()
    read = {name for name, value in OTHER.items() if weights(**{name: value}) != first}
    assert set(OTHER) == {field.name for field in dataclasses.fields(Hyper)}
    assert read == methods.reads(method)
