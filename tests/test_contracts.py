"""What every model, data set and method must satisfy. Each file of a kind is found by itself."""

import dataclasses
import importlib
import importlib.util
import inspect
import math
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ezo import catalogue, checkpoint, methods
from ezo.data import Dataset, shapes_upright
from ezo.methods import Hyper
from ezo.models import pointnet
from ezo.precisions.int8 import Int8Hyper
from ezo.split import layers
from ezo.train import Run, _Loop, build, train

# Letters: N examples, C channels or coordinates, P points, k BP layers.

FUNCTIONS = {
    "model": ("build", ["name", "classes", "channels"]),
    "data": ("load", ["name", "root"]),
    "method": ("parts", ["name"]),
    "precision": (
        "make_step",
        ["name", "model", "method", "hyper", "seed", "device", "loss", "bp_optimizer", "ranks"],
    ),
    "estimator": ("difference", ["losses"]),
}
OPTIONAL = {"model": ["size"], "precision": ["estimator"]}
LONGEST_LINE = 110
NUMBERS = {"<points>": "256", "<degrees>": "45", "<k>": "1"}
BUILTIN = [(kind, module) for kind in catalogue.KINDS for module in catalogue.members(kind)]


def concrete(name: str) -> str:
    """A name that a caller could write: placeholders filled in."""
    return re.sub(r"<\w+>", lambda found: NUMBERS.get(found[0], "2"), name)


def examples(kind: str) -> list[str]:
    return [concrete(name) for name in catalogue.names(kind)]


every_member = pytest.mark.parametrize(
    ("kind", "module"), BUILTIN, ids=[module.__name__ for _, module in BUILTIN]
)
every_model = pytest.mark.parametrize("name", examples("model"))


# Every kind


@every_member
def test_member_describes_itself_in_one_short_line(kind: str, module: ModuleType) -> None:
    first = (module.__doc__ or "").splitlines()[0]
    assert first == first.strip()
    assert 10 <= len(first) <= LONGEST_LINE
    assert first.endswith(".")


@every_member
def test_member_has_the_function_of_its_kind(kind: str, module: ModuleType) -> None:
    function, parameters = FUNCTIONS[kind]
    found = list(inspect.signature(getattr(module, function)).parameters)
    assert found in (parameters, [*parameters, *OPTIONAL.get(kind, [])])
    assert getattr(module, function).__doc__


@every_member
def test_member_is_found_by_each_of_its_names(kind: str, module: ModuleType) -> None:
    assert isinstance(module.NAMES, tuple) and module.NAMES
    for name in module.NAMES:
        assert catalogue.find(kind, concrete(name)) is module


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_names_are_unique_within_their_kind(kind: str) -> None:
    names = catalogue.names(kind)
    assert names and len(set(names)) == len(names)
    for name in examples(kind):
        matching = [
            n for n in names if re.fullmatch(re.sub("<\\w+>", "\\\\d+", re.escape(n)), name)
        ]
        assert len(matching) == 1


@pytest.mark.parametrize("kind", catalogue.KINDS)
@pytest.mark.parametrize("name", ["nonsense", "", "elastic-", "elastic-x", "lenet5 ", "_files"])
def test_an_unknown_name_lists_the_known_names(kind: str, name: str) -> None:
    with pytest.raises(ValueError) as error:
        catalogue.find(kind, name)
    known = ", ".join(catalogue.names(kind))
    if kind in catalogue.OF_THE_USER:
        known += f", or {catalogue.OF_THE_USER[kind][1]}"
    assert str(error.value) == f"unknown {kind} '{name}'; known: {known}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("model", "INPUT = 'image'\ndef build(name, classes, channels): return name"),
        ("data", "def load(name, root): return name"),
        ("method", "def parts(name): return name"),
        (
            "precision",
            "def make_step(name, model, method, hyper, seed, device, loss, bp_optimizer, ranks):"
            " return name",
        ),
        ("estimator", "POINTS = (1, -1)\ndef difference(losses): return losses"),
    ],
)
def test_a_new_file_is_found_by_being_there(
    drop_in: Callable[[str, str, str], Path], kind: str, body: str
) -> None:
    before = catalogue.names(kind)
    drop_in(kind, "novel", f'"""A new one."""\nNAMES = ("novel", "novel-<n>")\n{body}\n')
    assert sorted(catalogue.names(kind)) == sorted([*before, "novel", "novel-<n>"])
    for name in ("novel", "novel-17"):
        function = getattr(catalogue.find(kind, name), FUNCTIONS[kind][0])
        assert function(name, *[None] * (len(FUNCTIONS[kind][1]) - 1)) == name


def test_a_file_with_an_underscore_is_no_member(drop_in: Callable[[str, str, str], Path]) -> None:
    drop_in("model", "_helper", "raise AssertionError('imported')")
    assert "_helper" not in catalogue.names("model")


@pytest.mark.parametrize(("name", "number"), [("elastic-2", 2), ("a-rot45", 45), ("lenet5", 5)])
def test_number_is_the_integer_at_the_end(name: str, number: int) -> None:
    assert catalogue.number(name) == number


def test_number_of_a_name_without_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="ends in an integer, got 'full-zo'"):
        catalogue.number("full-zo")


# Models


def inputs(name: str, channels: int, n: int = 4) -> Tensor:
    shape = {"image": (n, channels, 28, 28), "points": (n, 32, channels)}
    generator = torch.Generator().manual_seed(3)
    return torch.randn(shape[catalogue.find("model", name).INPUT], generator=generator)


def channels_of(name: str) -> int:
    return {"image": 1, "points": 3}[catalogue.find("model", name).INPUT]


def built(name: str, classes: int = 10, channels: int | None = None, seed: int = 0) -> nn.Module:
    run = Run(name, "digits", "full-zo", seed=seed)
    return build(run, classes, channels_of(name) if channels is None else channels)


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


# Methods. On three networks: tiny has batch norm and dropout.

DEEPEST = {"tiny": 3, "lenet5": 5, "pointnet-bn": 8}


def concrete_methods(deepest: int) -> list[str]:
    """All methods, those with a k with every k from 1 to all layers."""
    ks = range(1, deepest + 1)
    return [
        name
        for known in catalogue.names("method")
        for name in dict.fromkeys(known.replace("<k>", str(k)) for k in ks)
    ]


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


@pytest.fixture(autouse=True)
def networks(tiny: None) -> None:
    """The tiny network is there in every test."""


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
SEEN = {"fraction": 0, "rate": 1 << 16}  # steps of whole last places


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


# Precisions, with the methods that have a form in them


def has_form(precision: str, method: str) -> bool:
    file = catalogue.find("precision", precision)
    try:
        file.check(method, file.default(method))
    except ValueError:
        return False
    return True


FORMS = [
    (precision, method)
    for precision in examples("precision")
    for method in concrete_methods(DEEPEST["tiny"])
    if has_form(precision, method)
]
every_form = pytest.mark.parametrize(("precision", "method"), FORMS)
in_integers = pytest.mark.parametrize(
    ("precision", "method"), [form for form in FORMS if form[0].startswith("int")]
)


def integer_run(method: str, precision: str = "int8", **changed: Any) -> Run:
    hyper = dataclasses.replace(Int8Hyper(rate=20_000), **changed)
    return Run("plain", "tiny-images", method, precision, epochs=1, batch_size=8, hyper=hyper)


def final_weights(run: Run) -> str:
    return list(train(run))[-1].note


@pytest.mark.parametrize("precision", examples("precision"))
def test_every_hyperparameter_says_what_it_is_and_has_a_default(precision: str) -> None:
    for field in dataclasses.fields(catalogue.find("precision", precision).HYPER):
        assert field.metadata["help"]
        assert field.default is not dataclasses.MISSING


@every_form
def test_default_hyperparameters_pass_and_those_read_exist(precision: str, method: str) -> None:
    file = catalogue.find("precision", precision)
    hyper = file.default(method)
    assert isinstance(hyper, file.HYPER)
    file.check(method, hyper)
    assert file.reads(method) <= {field.name for field in dataclasses.fields(hyper)}


ONE_FILE = """
import re, sys
from pathlib import Path

import ezo
from bench import memory
from bench.workload import Workload
from ezo import rows
from ezo.cli import main

assert Path(ezo.__file__).is_relative_to(sys.argv[1]), ezo.__file__
ends, tables, peaks = [], [], []
for name in ("fp32", "novel"):
    run = ["--model", "lenet5", "--precision", name]
    short = ["--data", "digits", "--method", "elastic-1", "--epochs", "1", "--batch-size", "16"]
    short += ["--lr", "1e-3", "--eps", "1e-3", "--clip", "5", "--bp-lr", "0.01"]  # not tuned ones
    short += ["--threads", "1"]
    out = Path(sys.argv[1], name)
    assert main(["train", *run, *short, "--train-examples", "32", "--out", str(out)]) == 0
    ends.append(rows.read(out / "rows.jsonl")[-1])
    print("plan")
    assert main(["plan", *run, "--batch", "4", "--budget", "1MB"]) == 0
    found = memory.measure(Workload("lenet5", "elastic-1", 4, precision=name))
    peaks.append({row.metric: row.value for row in found if "tensor" in row.metric})
assert ends[0].metric == "finished" and ends[0].note == ends[1].note
assert (ends[0].precision, ends[1].precision) == ("fp32", "novel")
assert peaks[0] == peaks[1] and peaks[0]["peak_tensor_bytes"] > 0, peaks
"""


def test_a_precision_is_one_file(tmp_path: Path) -> None:
    """fp32 under another name, in a copy of the tree: it trains, is planned and is measured."""
    for package in ("ezo", "bench"):
        folder = Path(str(importlib.import_module(package).__file__)).parent
        ignored = shutil.ignore_patterns("*.pyc", "csrc")
        shutil.copytree(folder, tmp_path / package, ignore=ignored)
    kernels = importlib.util.find_spec("ezo._kernels")
    if kernels is not None and kernels.origin:
        shutil.copy(kernels.origin, tmp_path / "ezo")
    source = (tmp_path / "ezo/precisions/fp32.py").read_text(encoding="utf-8")
    novel = source.replace('NAMES = ("fp32",)', 'NAMES = ("novel",)')
    assert novel != source
    (tmp_path / "ezo/precisions/novel.py").write_text(novel, encoding="utf-8")
    done = subprocess.run(
        # -S: without it an editable install's hook would come before the copy.
        [sys.executable, "-S", "-c", ONE_FILE, str(tmp_path)],
        capture_output=True, text=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    _, ours, theirs = done.stdout.split("plan\n")
    assert "elastic-1" in ours and ours.partition("step ")[0] == theirs


OTHER_INTEGER: dict[str, Any] = {
    "rate": 30_000, "r_max": 7, "p_zero": 0.1, "magnitude": "sign", "mu": 4, "mu_drop": 0,
    "growth": 2, "zo_growth": 1, "bp_gradient": "mean", "largest_difference": 1, "fraction": 8,
    "queries": 2, "schedule": "constant", "rate_node": 30_000, "sigma": 2, "node_growth": 0,
    "sparse": 1, "bias_growth": 12,
}  # fmt: skip
SEEN = {"fraction": 0, "rate": 1 << 16}  # steps of whole last places


@pytest.mark.parametrize(
    ("precision", "method"),
    [(p, m) for p, m in FORMS if p.startswith("int") and m in concrete_methods(deepest=1)],
)
def test_method_reads_the_integer_hyperparameters_that_its_precision_says(
    precision: str, method: str
) -> None:
    first = final_weights(integer_run(method, precision, **SEEN))
    read = {
        name
        for name, value in OTHER_INTEGER.items()
        if final_weights(integer_run(method, precision, **{**SEEN, name: value})) != first
    }
    assert set(OTHER_INTEGER) == {field.name for field in dataclasses.fields(Int8Hyper)}
    assert read == catalogue.find("precision", precision).reads(method)


@in_integers
def test_integer_method_moves_the_layers_that_its_fp32_form_moves(
    precision: str, method: str
) -> None:
    loop = _Loop(
        integer_run(method, precision, fraction=0, rate=1 << 20, rate_node=1 << 20).settled(),
        None,
        None,
        torch.device("cpu"),
        1,
    )
    before = [p.clone() for p in loop.model.parameters()]
    list(loop.rows(tqdm(disable=True)))
    after = list(loop.model.parameters())
    moved = [not torch.equal(p, q) for p, q in zip(before, after, strict=True)]
    model = build(loop.run, 3, 1)
    methods.optimizer(method, model, Hyper(), 0)
    assert moved == [p.requires_grad for p in model.parameters()]
    assert all(p.dtype == torch.int8 for p in after)


@in_integers
def test_integer_training_learns(precision: str, method: str) -> None:
    rates = {"rate": 500_000, "rate_node": 100_000, "mu": 3, "mu_drop": 0}
    run = integer_run(method, precision, **rates, schedule="constant")
    measured = train(dataclasses.replace(run, epochs=30))
    losses = [row.value or math.nan for row in measured if row.metric == "test_loss"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize(("ends", "same_as"), [("elastic-0", "full-zo"), ("elastic-3", "full-bp")])
def test_integer_elastic_at_its_ends_is_the_full_method(ends: str, same_as: str) -> None:
    assert final_weights(integer_run(ends)) == final_weights(integer_run(same_as))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("method", ["full-zo", "elastic-1", "full-bp"])
def test_training_in_16_bits_learns(precision: str, method: str) -> None:
    run = Run("plain", "tiny-images", method, precision, epochs=10, batch_size=8)
    measured = list(train(run))
    losses = [row.value or math.nan for row in measured if row.metric == "test_loss"]
    assert losses[-1] < losses[0]


# Data sets


MISSING = (FileNotFoundError, ModuleNotFoundError)


@pytest.fixture(scope="module")
def no_network() -> Iterator[None]:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no network in tests")

    with pytest.MonkeyPatch.context() as patch:
        for place, name in (
            (socket.socket, "connect"),
            (socket.socket, "connect_ex"),
            (socket, "getaddrinfo"),
        ):
            patch.setattr(place, name, refuse)
        yield


@pytest.fixture(scope="module", params=examples("data"))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def loading(
    name: str, tmp_path_factory: pytest.TempPathFactory, no_network: None
) -> Callable[[], Dataset]:
    """Loads the data set from ``EZO_DATA`` where that is set, else from an empty folder."""
    root = None if os.environ.get("EZO_DATA") else tmp_path_factory.mktemp("empty")
    return lambda: catalogue.find("data", name).load(name, root)


@pytest.fixture(scope="module")
def found(loading: Callable[[], Dataset]) -> Dataset | Exception:
    try:
        return loading()
    except MISSING as error:
        return error


@pytest.fixture
def dataset(name: str, found: Dataset | Exception) -> Dataset:
    if isinstance(found, Exception):
        pytest.skip(f"{name} is not on this machine")
    return found


def test_missing_files_are_named_with_the_fix(found: Dataset | Exception) -> None:
    if isinstance(found, Exception):
        assert str(found).startswith("expected ")
        assert re.search(r"--data-root.*EZO_DATA|pip install -e '\.\[train\]'", str(found))


@pytest.mark.parametrize("needless", ["digits", "shapes-256"])
def test_some_data_sets_need_no_files(needless: str, tmp_path: Path, no_network: None) -> None:
    assert len(catalogue.find("data", needless).load(needless, tmp_path).train_x)


def test_data_set_is_whole_and_well_formed(name: str, dataset: Dataset) -> None:
    for x, y in ((dataset.train_x, dataset.train_y), (dataset.test_x, dataset.test_y)):
        assert x.dtype == torch.float32 and y.dtype == torch.int64
        assert len(x) == len(y) > 0 and y.dim() == 1
        assert x.dim() in (3, 4) and x.shape[1:] == dataset.train_x.shape[1:]
        assert torch.isfinite(x).all()
        assert y.unique().tolist() == list(range(dataset.classes))
    if dataset.train_x.dim() == 4:
        assert dataset.train_x.shape[1:] == (1, 28, 28)
    else:
        assert dataset.train_x.shape[2] == 3
        assert dataset.train_x.shape[1] == (256 if name.endswith("-256") else 1024)
    assert re.fullmatch("[0-9a-f]{64}", dataset.checksum)


def test_images_have_mean_0_and_variance_1(name: str, dataset: Dataset) -> None:
    if dataset.train_x.dim() != 4 or "-rot" in name:  # rotated images have the scale of unrotated
        return
    assert dataset.train_x.mean(dtype=torch.float64).item() == pytest.approx(0, abs=1e-4)
    assert dataset.train_x.double().var().item() == pytest.approx(1, abs=1e-3)


def test_data_set_is_the_same_on_every_load(
    dataset: Dataset, loading: Callable[[], Dataset]
) -> None:
    before = torch.get_rng_state()
    again = loading()
    assert torch.equal(torch.get_rng_state(), before)
    assert again.checksum == dataset.checksum
    assert torch.equal(again.test_x, dataset.test_x)


def test_augmentation_depends_on_its_generator_alone(dataset: Dataset) -> None:
    if dataset.augment is None:
        return
    x = dataset.train_x[:4].clone()
    before = torch.get_rng_state()
    first, again, other = (
        dataset.augment(x, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(x, dataset.train_x[:4])
    assert first.shape == x.shape and first.dtype == x.dtype
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("part", ["train_x", "train_y", "test_x", "test_y"])
def test_checksum_sees_one_element_of_each_tensor(part: str) -> None:
    data = catalogue.find("data", "tiny-images").load("tiny-images")
    changed = getattr(data, part).clone()
    changed.view(-1)[-1] += 1
    assert dataclasses.replace(data, **{part: changed}).checksum != data.checksum
    assert dataclasses.replace(data).checksum == data.checksum
