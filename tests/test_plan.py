"""A plan: predicted bytes against those of real steps, the choice, and what it says."""

import functools
import gc
import re
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bench.memory import peak_bytes
from ezo import ElasticZO, catalogue, kernels, layers, stream
from ezo.cli import main
from ezo.data._vision import import_torchvision
from ezo.livebytes import KINDS, step_peak
from ezo.plan import parse_bytes, plan

LENET5_STATE = 431_144 + 32 * 784 * 4 + 32 * 8  # parameters, images, labels
CONVOLUTION = 32 * 6 * 28 * 28 * 4  # what the first one makes


class Encoder(nn.Module):
    """A TransformerEncoder classifier."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        return self.head(self.encoder(x).mean(1))


def mobilenet():
    try:
        return import_torchvision().models.mobilenet_v2(num_classes=10)
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed")


def of_ours(name, *shape):
    return lambda: (catalogue.find("model", name).build(name), torch.zeros(shape))


MODELS = {
    "lenet5": (of_ours("lenet5", 32, 1, 28, 28), range(6)),
    "pointnet": (of_ours("pointnet", 2, 64, 3), range(9)),
    "pointnet-bn": (of_ours("pointnet-bn", 2, 64, 3), (0, 1, 5, 8)),
    "mobilenet_v2": (lambda: (mobilenet(), torch.zeros(2, 3, 64, 64)), (0, 1, 12, 53)),
    "transformer": (lambda: (Encoder(), torch.zeros(4, 24, 32)), (0, 1, 4, 9)),
}


def named(splits, depth, kind="elastic"):
    """The methods with these numbers of BP layers."""
    ends = {0: "full-zo"} if kind != "elastic" else {0: "full-zo", depth: "full-bp"}
    return [ends.get(k, f"{kind}-{k}") for k in splits]


def measured(make, k, **settings):
    """Peak bytes of a real step, by the instrument of `bench`, which shares no code with a plan."""
    gc.collect()
    others = peak_bytes(lambda: None)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make()
    y = torch.zeros(len(x), dtype=torch.int64)

    def closure():
        return nn.functional.cross_entropy(model(x), y)

    if k is None:
        step = torch.no_grad()(closure)
    else:
        optimizer = ElasticZO(model, "all" if k == len(layers(model)) else k, lr=0.0, **settings)

        def step():
            return optimizer.step(closure)

    step()
    gc.collect()
    return peak_bytes(step) - others


@pytest.mark.parametrize("name", MODELS)
def test_predicted_peak_is_the_measured_one(name):
    make, splits = MODELS[name]
    model, x = make()
    found = plan(model, x, methods=named(splits, len(layers(model))))
    assert found.inference.peak_bytes == measured(make, None)
    for prediction in found.predictions:
        peak = prediction.peak
        assert peak.peak_bytes == pytest.approx(measured(make, prediction.bp_layers), rel=0.02)
        assert sum(peak.kinds.values()) == sum(peak.modules.values()) == peak.peak_bytes


@pytest.mark.parametrize("name", ["lenet5", "pointnet-bn", "transformer"])
def test_predicted_peak_of_a_lean_step_is_the_measured_one(name):
    make, splits = MODELS[name]
    model, x = make()
    depth = len(layers(model))
    found = plan(model, x, methods=named(splits, depth, "elastic-lean"))
    usual = plan(model, x, methods=named(splits, depth))
    sgd = functools.partial(torch.optim.SGD, lr=0.01)
    for lean, other in zip(found.predictions, usual.predictions, strict=True):
        peak = measured(make, lean.bp_layers, bp_gradient="last", bp_optimizer=sgd)
        assert lean.peak.peak_bytes == pytest.approx(peak, rel=0.02)
        assert lean.peak.peak_bytes < other.peak.peak_bytes or not lean.bp_layers
        own = other.method.replace("elastic", "elastic-lean")
        assert lean.method == (f"elastic-lean-{lean.bp_layers}" if own == "full-bp" else own)


def test_chunks_are_planned_for_every_split_and_left_out_where_they_change_nothing():
    make = of_ours("lenet5", 8, 1, 28, 28)
    found = plan(*make(), methods=("full-zo", "elastic-2", "full-bp"), chunk=(0, 8, 2, 1))
    labels = [found.label(p) for p in found.predictions]
    assert labels[:5] == ["full-zo", "elastic-2", "full-bp", "full-zo chunk 8", "elastic-2 chunk 8"]
    assert labels[5:] == [f"{m} chunk {c}" for c in (2, 1) for m in ("full-zo", "elastic-2")]
    by = dict(zip(labels, found.predictions, strict=True))
    for label in ("full-zo", "elastic-2"):
        peaks = [by[f"{label}{more}"].peak for more in ("", " chunk 8", " chunk 2", " chunk 1")]
        sizes = [peak.peak_bytes for peak in peaks]
        assert sizes == sorted(set(sizes), reverse=True)
        assert by[label].relative_time < by[f"{label} chunk 1"].relative_time
    for bp, label in ((0, "full-zo chunk 2"), (2, "elastic-2 chunk 2")):
        streamed = functools.partial(_streamed, make, 2)
        assert by[label].peak.peak_bytes == pytest.approx(measured(streamed, bp), rel=0.001)


def _streamed(make, chunk):
    model, x = make()
    return stream(model, chunk), x


def test_a_budget_is_met_by_depth_chunk_and_precision_together():
    model, x = of_ours("lenet5", 8, 1, 28, 28)()
    how = {"methods": ("full-zo", "elastic-2", "elastic-lean-2"), "chunk": (0, 1)}
    found = plan(model, x, "600KB", precision=("fp32", "int8"), **how)
    labels = [found.label(p) for p in found.predictions]
    assert labels[6:] == [  # no lean form
        "full-zo int8", "elastic-2 int8", "full-zo int8 chunk 1", "elastic-2 int8 chunk 1",
    ]  # fmt: skip
    assert "elastic-lean-2 fp32 chunk 1" in labels
    assert found.label(found.best).startswith("elastic-2 int8")
    assert not found.impossible


def test_lenet5_has_three_lean_layers_in_the_memory_of_inference():
    found = plan(*MODELS["lenet5"][0](), lean=True)
    assert [p.peak.peak_bytes for p in found.predictions[:4]] == [found.inference.peak_bytes] * 4
    assert found.predictions[4].peak.peak_bytes > found.inference.peak_bytes


@pytest.mark.parametrize("k", [0, 2, 5])
def test_taking_a_real_step_apart_does_not_change_its_peak(k):
    make, _ = MODELS["lenet5"]

    def prepare():
        model, x = make()
        y = torch.zeros(len(x), dtype=torch.int64)
        optimizer = ElasticZO(model, "all" if k == 5 else k, lr=0.0)
        return model, lambda: optimizer.step(lambda: nn.functional.cross_entropy(model(x), y))

    real = step_peak(prepare)
    assert real.peak_bytes == measured(make, k)
    (predicted,) = plan(*make(), methods=named([k], 5)).predictions
    assert real.kinds == predicted.peak.kinds
    assert real.modules == predicted.peak.modules


def test_lenet5_by_hand():
    make, _ = MODELS["lenet5"]
    found = plan(*make())
    bytes_of = {p.method: p.peak for p in found.predictions}
    # A forward pass needs the most when the first ReLU reads one tensor and writes another.
    assert found.inference.peak_bytes == LENET5_STATE + 2 * CONVOLUTION
    assert bytes_of["full-zo"].peak_bytes == found.inference.peak_bytes
    tail = (84 * 10 + 10) * 4
    assert bytes_of["elastic-1"].peak_bytes == found.inference.peak_bytes + 2 * tail
    assert bytes_of["elastic-1"].kinds["gradients"] == tail
    assert bytes_of["elastic-1"].kinds["optimizer"] == tail
    assert bytes_of["elastic-1"].kinds["activations"] == 0  # not at that moment
    kinds = bytes_of["full-bp"].kinds
    assert kinds["parameters"] == kinds["optimizer"] == 431_144
    # Kept: both ReLUs' outputs; both poolings' outputs' places (int64) while not yet used, ...
    assert bytes_of["full-bp"].modules["1", "activations"] == CONVOLUTION
    assert bytes_of["full-bp"].modules["11", "gradients"] == tail


def test_scratch_for_noise_counts_where_it_makes_the_peak():
    def make():
        model = nn.Sequential(nn.Linear(64, 200), nn.Linear(200, 3)).double()
        return model, torch.zeros(1, 64, dtype=torch.float64)

    with kernels.using("reference"):  # compiled sweeps have none
        (found,) = plan(*make(), methods=["full-zo"]).predictions
        assert 0 < found.peak.kinds["scratch"] <= 64 * 1024
        assert found.peak.peak_bytes == measured(make, 0)


def test_an_optimiser_with_more_state_needs_more():
    make, _ = MODELS["lenet5"]
    adam = torch.optim.Adam
    (found,) = plan(*make(), methods=["elastic-1"], bp_optimizer=adam).predictions
    assert found.peak.peak_bytes == measured(make, 1, bp_optimizer=adam)
    assert found.peak.kinds["optimizer"] == 2 * 3400 + 2 * 4  # two moments; two counts of steps


def test_model_input_and_random_state_are_left_alone():
    model, x = MODELS["pointnet-bn"][0]()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.get_rng_state()
    plan(model, x, methods=["full-zo", "elastic-3"])
    assert torch.equal(torch.get_rng_state(), random)
    for name, t in model.state_dict().items():
        assert torch.equal(t, before[name])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_model_without_numbers_is_enough():
    make, _ = MODELS["lenet5"]
    with torch.device("meta"):
        without = plan(*make(), methods=["elastic-2"])
    assert without == plan(*make(), methods=["elastic-2"])


def test_a_large_model_takes_no_memory():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(100_000, 100_000), nn.ReLU(), nn.Linear(100_000, 10))
        x = torch.empty(8, 100_000)
    gc.collect()
    before = peak_bytes(lambda: None)
    found = plan(model, x)
    assert found.predictions[0].peak.peak_bytes > 40e9
    gc.collect()
    assert peak_bytes(lambda: None) == before


def test_what_the_loss_holds_is_part_of_the_batch():
    make, _ = MODELS["lenet5"]
    model, x = make()
    y = torch.zeros(len(x), dtype=torch.int64)
    held = plan(
        model, x, methods=["elastic-2"], loss=lambda out: nn.functional.cross_entropy(out, y)
    )
    assert held == plan(model, x, methods=["elastic-2"])


def test_the_loss_and_several_inputs_are_the_callers():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, a, b):
            return self.layer(a) * b

    found = plan(Two(), (torch.zeros(5, 3), torch.zeros(5, 2)), loss=lambda out: out.square().sum())
    assert [p.method for p in found.predictions] == ["full-zo", "full-bp"]
    assert found.predictions[0].peak.kinds["batch"] == 5 * 3 * 4 + 5 * 2 * 4


class Parts(nn.Module):
    """Takes named arguments or a list, and holds a tensor that is neither parameter nor buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.scales = {"held": [torch.full((2,), 3.0)]}

    def forward(self, a, b=None):
        a, b = a if isinstance(a, list) else (a, b)
        return self.layer(a) * b * self.scales["held"][0]


@pytest.mark.parametrize("kind", [dict, list])
def test_inputs_may_have_names_or_come_in_a_list(kind):
    a, b = torch.zeros(5, 3), torch.zeros(5, 2)
    x = {"a": a, "b": b} if kind is dict else [a, b]
    model = Parts()
    found = plan(model, x)
    assert found.predictions == plan(model, (a, b)).predictions
    # Two inputs, and the labels; beside the tensor that the model holds.
    assert found.predictions[0].peak.kinds["batch"] == 4 * (5 * 3 + 5 * 2 + 2) + 8 * 5
    assert model.scales["held"][0].tolist() == [3.0, 3.0]


def test_an_input_without_a_tensor_is_an_error():
    with pytest.raises(ValueError, match="expected an input with a tensor, got {'a': 3}"):
        plan(Parts(), {"a": 3})


def test_methods_may_be_any_by_name_and_each_is_planned_once():
    model, x = MODELS["lenet5"][0]()
    names = ["tail-only-2", "full-bp-checkpoint", "elastic-lean-*", "elastic-2", "tail-only-2"]
    found = {p.method: p for p in plan(model, x, methods=names).predictions}
    assert list(found) == [*names[:2], *(f"elastic-lean-{k}" for k in range(1, 5)), "elastic-2"]
    assert [found[name].bp_layers for name in (*names[:2], "elastic-2")] == [2, 5, 2]
    assert [found[name].begins for name in (*names[:2], "elastic-2")] == ["9", "0", "9"]
    assert found["tail-only-2"].relative_time < found["elastic-2"].relative_time


def test_splits_still_work_and_say_what_to_give():
    make, _ = MODELS["lenet5"]
    with pytest.warns(FutureWarning, match="give methods="):
        found = plan(*make(), splits=[5, 0, 2])
    assert found == plan(*make(), methods=["full-zo", "elastic-2", "full-bp"])


def test_a_budget_below_a_byte_is_an_error():
    with pytest.raises(ValueError, match="expected a budget of 1 byte or more, got -5"):
        plan(*MODELS["lenet5"][0](), -5)


def test_a_model_whose_output_is_not_of_classes_is_told_to_bring_its_loss():
    model = nn.Sequential(nn.Embedding(8, 4), nn.Linear(4, 8))
    x = torch.zeros(5, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"of shape \(5, classes\).*got \(5, 3, 8\); give a loss"):
        plan(model, x)
    assert plan(model, x, loss=lambda out: out.flatten(0, 1).logsumexp(1).mean()).predictions


@pytest.mark.parametrize(
    ("budget", "chosen"),
    [(1_735_976, "full-zo"), ("1.8MB", "elastic-1"), ("2.6MB", "elastic-3"), ("1GB", "full-bp")],
)
def test_the_most_bp_that_fits_is_chosen(budget, chosen):
    found = plan(*MODELS["lenet5"][0](), budget)
    assert found.best.method == chosen
    assert found.table().splitlines()[-1].startswith(chosen)


def test_where_nothing_fits_it_says_what_would():
    found = plan(*MODELS["lenet5"][0](), 1_735_975)
    assert found.best is None
    assert "nothing fits in 1,735,975 B: the least is 1,735,976 B; lower" in found.table()


def test_where_the_parameters_alone_are_too_many_no_batch_is_blamed():
    found = plan(*MODELS["lenet5"][0](), 400_000)
    assert "the parameters alone take 431,144 B, so that no batch is small" in found.table()


def test_relative_time_grows_with_the_split_and_knows_of_groups():
    image = torch.empty(8, 256, 32, 32, device="meta")
    with torch.device("meta"):
        model = nn.Sequential(
            nn.Conv2d(256, 256, 3, groups=256), nn.ReLU(), nn.Conv2d(256, 256, 3, groups=256),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 4),
        )  # fmt: skip
    times = {p.method: p.relative_time for p in plan(model, image).predictions}
    assert 1 <= times["full-zo"] < times["elastic-1"] < times["elastic-2"]
    assert 1 < times["full-bp"] < 2.5


@pytest.mark.parametrize("text", ["", "12", "MB", "-3MB", "3 mB", "3MIB", "1e3B", "1.KB"])
def test_what_is_no_amount_of_memory_is_an_error(text):
    with pytest.raises(ValueError, match=f"got '{text}'; write for example 300KB"):
        parse_bytes(text)


def test_a_shape_that_depends_on_values_is_an_error():
    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x[x[:, 0] > 0])

    with pytest.raises(ValueError, match="a shape depends on values: aten.nonzero"):
        plan(Chosen(), torch.ones(4, 3), loss=lambda out: out.sum())


def test_command_line_prints_the_table_and_draws(capsys, tmp_path):
    plot = tmp_path / "plan.svg"
    arguments = ["plan", "--model", "lenet5", "--batch", "8", "--budget", "1MB", "--plot", plot]
    assert main(list(map(str, arguments))) == 0
    out = capsys.readouterr().out
    assert out == plan(*of_ours("lenet5", 8, 1, 28, 28)(), "1MB").table() + "\n"
    assert [line.split()[0] for line in out.splitlines()[1:7]] == [
        "full-zo", "elastic-1", "elastic-2", "elastic-3", "elastic-4", "full-bp",
    ]  # fmt: skip
    drawn = plot.read_text()
    assert drawn.count("<!-- ") > len(KINDS) and "inference" in drawn


def test_the_command_plans_images_of_the_model_s_own_size(monkeypatch):
    mobilenet()  # or skip
    seen = []

    def planned(model, x, *rest, **how):
        seen.append(tuple(x.shape))
        raise ValueError("enough")

    monkeypatch.setattr(sys.modules["ezo.plan.command"], "plan", planned)
    for model in ("mobilenet_v2", "lenet5"):
        assert main(["plan", "--model", model, "--batch", "2"]) == 2
    assert seen == [(2, 3, 96, 96), (2, 1, 28, 28)]


def test_the_command_plans_for_the_data_it_is_given(monkeypatch, tmp_path):
    seen = []

    def planned(model, x, *rest, **how):
        seen.append((tuple(x.shape), model[-1].weight.shape[0]))
        raise ValueError("enough")

    monkeypatch.setattr(sys.modules["ezo.plan.command"], "plan", planned)
    images, y = np.zeros((30, 3, 20, 24), np.float32), np.arange(30) % 7
    np.savez(tmp_path / "own.npz", x=images, y=y)
    words = ["plan", "--model", "lenet5", "--batch", "2", "--data", str(tmp_path / "own.npz")]
    assert main(words) == 2
    assert main([*words, "--classes", "9"]) == 2
    assert main(["plan", "--model", "lenet5", "--batch", "2", "--data", "digits"]) == 2
    assert seen == [((2, 3, 20, 24), 7), ((2, 3, 20, 24), 9), ((2, 1, 28, 28), 10)]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "shapes-8"], "expected data of image for lenet5, got points from shapes-8"),
        (
            ["--data", "digits", "--classes", "9"],
            "expected --classes of 10 or more, as many as dig",
        ),
        (["--data", "digits", "--shape", "1", "28", "28"], "expected --data or the shape of its"),
        (["--data", "nothing"], "unknown data 'nothing'; known: "),
        (["--budget", "12"], "expected an amount of memory"),
        (
            ["--precision", "int4"],
            "unknown precision 'int4'; known: bf16, fp16, fp32, int8, int8\\*",
        ),
        (["--batch", "0"], "expected --batch of 1 or more, got 0"),
        (["--points", "64"], "expected no --points for lenet5, a model of images"),
        (["--precision", "int8", "--lean"], "with an integer form, .*, got elastic-lean-1; give"),
        (["--lean", "--methods", "full-zo"], "expected --methods or --lean, got both"),
        (["--methods", "elastic-x"], "unknown method 'elastic-x'; known: elastic-<k>"),
        (["--methods", "elastic-6"], "expected 0 to 5 BP layers, got 6"),
        (["--budget", "-5MB"], "expected an amount of memory, .*, got '-5MB'; write for example"),
        (["--chunk", "-1"], "expected chunk to be an integer of 0 or more, got -1"),
        (["--budget", "0B"], "expected a budget of 1 byte or more, got 0B"),
    ],
)
def test_command_line_refuses_what_it_cannot_plan(more, message, capsys):
    assert main(["plan", "--model", "lenet5", *more]) == 2
    assert re.match(f"ezo: .*{message}", capsys.readouterr().err)


def test_command_line_ends_with_1_where_nothing_fits(capsys):
    assert main(["plan", "--model", "lenet5", "--batch", "1", "--budget", "300KB"]) == 1
    assert "nothing fits in 300,000 B" in capsys.readouterr().out


def test_a_loss_of_labels_is_planned_as_it_is_trained_with():
    model, x = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), torch.empty(4, 6)
    usual = plan(model, x).predictions
    for loss in (
        nn.functional.cross_entropy,
        nn.CrossEntropyLoss(),
        lambda output, y: output[y].sum(),
    ):
        found = plan(model, x, loss=loss).predictions
        assert [p.method for p in found] == [p.method for p in usual]
    assert plan(model, x, loss=nn.functional.cross_entropy).predictions == usual
