"""A plan of integers: predicted bytes against those of real integer steps, and what it says."""

import gc
import threading

import pytest
import torch
from torch import nn

from bench.memory import peak_bytes
from bench.precisions import Whole
from bench.workload import Workload
from ezo import catalogue, kernels
from ezo.cli import main
from ezo.int8 import ElasticZO, Int8Tensor, Loss, SparseNoise, from_float, ops
from ezo.int8 import loss as int8_loss
from ezo.kernels import Layer, _simulated, compiled
from ezo.livebytes import step_peak
from ezo.models import lenet5
from ezo.plan import plan
from tests.backends import ISAS

needs_kernels = pytest.mark.skipif(not ISAS, reason="no compiled kernels")
IMAGES = (32, 1, 28, 28)


def of_ours(name, *shape):
    return lambda: (catalogue.find("model", name).build(name).eval(), torch.randn(shape))


def small():
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, 4)
    ), torch.randn(5, 2, 4, 4)  # fmt: skip


MODELS = {
    "lenet5": (of_ours("lenet5", *IMAGES), (0, 2, 3, 4, 5)),
    "pointnet": (of_ours("pointnet", 2, 64, 3), (0, 4, 8)),
    "small": (small, range(3)),
    "resnet8": (of_ours("resnet8", 2, 3, 16, 16), (0, 1, 4)),
    "ds_cnn": (of_ours("ds_cnn", 2, 1, 49, 10), (0, 3)),
    "mobilenet_v1_025": (of_ours("mobilenet_v1_025", 2, 3, 32, 32), (1,)),
    "large batch": (of_ours("lenet5", 256, 1, 28, 28), (4, 5)),  # gradients in int64
}


def named(splits, depth):
    """The methods with these numbers of BP layers."""
    return [{0: "full-zo", depth: "full-bp"}.get(k, f"elastic-{k}") for k in splits]


def prepared(make, k):
    """A real integer model and its step, built from `ezo.int8` alone; inference without ``k``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = make()
    network = from_float(model, headroom=15)
    batch = Int8Tensor((x * 30).clamp(-127, 127).to(torch.int8), -5)
    y = torch.zeros(len(x), dtype=torch.int64)
    if k is None:
        return network, lambda: Loss(network(batch), y).total()
    noise = SparseNoise(15, 0.0)
    optimizer = ElasticZO(network, k, noise=noise, rate=0, mu=-20, fraction=True)
    return network, lambda: optimizer.step(lambda: Loss(network(batch), y))


def measured(make, k):
    """Peak bytes of a real step, by the instrument of `bench`."""
    kernels.kept().clear()  # a process that trains has the loss's tables
    gc.collect()
    others = peak_bytes(lambda: None)
    network, step = prepared(make, k)
    step()
    gc.collect()
    found = peak_bytes(step) - others
    del network
    return found


@pytest.mark.parametrize("name", MODELS)
def test_predicted_peak_is_the_measured_one_to_the_byte(name):
    make, splits = MODELS[name]
    model, x = make()
    methods = named(splits, len(catalogue.find("precision", "int8").layers(model)))
    found = plan(model, x, precision="int8", methods=methods)
    assert found.inference.peak_bytes == measured(make, None)
    assert [p.bp_layers for p in found.predictions] == list(splits)
    for p in found.predictions:
        assert p.peak.peak_bytes == measured(make, p.bp_layers)
        assert sum(p.peak.kinds.values()) == sum(p.peak.modules.values()) == p.peak.peak_bytes


def test_where_the_reference_serves_it_is_predicted():
    with kernels.using("reference"):
        for k, method in enumerate(named(range(3), 2)):
            (found,) = plan(*small(), precision="int8", methods=[method]).predictions
            assert found.peak.peak_bytes == measured(small, k)
            assert found.peak.kinds["scratch"] > 0 or k == 2


@needs_kernels
def test_accumulators_held_whole_are_predicted_too():
    make = of_ours("lenet5", *IMAGES)
    with kernels.using(Whole()):
        (found,) = plan(*make(), precision="int8", methods=["full-zo"]).predictions
        assert found.peak.peak_bytes == measured(make, 0)
    standing = 2 * 107_786 + 32 * 784 + 32 * 8 + 2 * 257 * 8 + 32 * 10 * 4
    assert found.peak.peak_bytes == standing + (4 + 1) * 32 * 6 * 14 * 14


@pytest.mark.parametrize("precision", ["int8", "int8*"])
def test_the_step_of_the_training_loop_is_what_is_predicted(precision):
    kernels.kept().clear()
    gc.collect()
    others = peak_bytes(lambda: None)
    threads = torch.get_num_threads()
    try:
        _, step = Workload("lenet5", "elastic-2", 8, precision=precision).prepare()
        step()
        step()
        gc.collect()
        real = peak_bytes(step) - others
    finally:
        torch.set_num_threads(threads)
    make = of_ours("lenet5", 8, 1, 28, 28)
    (found,) = plan(*make(), precision=precision, methods=["elastic-2"]).predictions
    assert found.peak.peak_bytes == real


@needs_kernels
@pytest.mark.parametrize(("name", "shape"), [("lenet5", (32, 1, 28, 28)), ("pointnet", (4, 64, 3))])
def test_nodes_need_what_weights_do_and_are_predicted(name, shape):
    make = of_ours(name, *shape)
    found = plan(*make(), precision="int8", methods=["full-zo", "full-zo-node"]).predictions
    by_weights, by_nodes = (p.peak.peak_bytes for p in found)
    assert by_nodes <= 1.02 * by_weights
    kernels.kept().clear()
    gc.collect()
    others = peak_bytes(lambda: None)
    model, x = make()
    step = catalogue.find("precision", "int8").make_step(
        "int8", model, "full-zo-node", catalogue.find("precision", "int8").default("full-zo-node")
    )
    del model
    given, y = step.calibrate(x), torch.zeros(len(x), dtype=torch.int64)
    del x
    step(given, y)
    gc.collect()
    assert peak_bytes(lambda: step(given, y)) - others == by_nodes


@needs_kernels
@pytest.mark.parametrize("k", [0, 2, 5])
def test_taking_a_real_step_apart_does_not_change_its_peak(k):
    make, _ = MODELS["lenet5"]
    kernels.kept().clear()
    real = step_peak(lambda: prepared(make, k))
    assert real.peak_bytes == measured(make, k)
    predicted = plan(*make(), precision="int8", methods=named([k], 5)).predictions[0].peak
    assert real.kinds == predicted.kinds
    assert real.modules == predicted.modules


@needs_kernels
def test_lenet5_by_hand():
    found = plan(*of_ours("lenet5", *IMAGES)(), precision="int8", methods=named([0, 3, 5], 5))
    weights = 107_786  # and as many fractions
    batch = 32 * 784 + 32 * 8 + 2 * 257 * 8  # with the loss's two tables of 257 numbers
    first, second = 32 * 6 * 14 * 14, 32 * 16 * 7 * 7  # pooled convolutions
    standing = 2 * weights + batch + 32 * 10 * 4  # with the first pass's logits
    of = {p.method: p.peak for p in found.predictions}
    assert of["full-zo"].peak_bytes == standing + first + second
    tail = 4 * (784 * 120 + 120 + 120 * 84 + 84 + 84 * 10 + 10)  # int32 gradients
    assert of["elastic-3"].kinds["gradients"] == tail
    # Beside the gradients: what fc1 had as input, its error, both passes' logits, their error.
    backward = standing + tail + 32 * (784 + 120) + 32 * 10 * 4 + 32 * 10
    assert of["elastic-3"].peak_bytes == backward
    kinds = of["full-bp"].kinds
    assert kinds["parameters"] == kinds["optimizer"] == weights
    assert of["full-bp"].modules["layers.11", "gradients"] == 4 * (84 * 10 + 10)
    # Kept while the second ReLU goes backward: its output and the first one's, before pooling, and
    # what of the first one's is largest, and where.
    assert kinds["activations"] == 32 * (16 * 14 * 14 + 6 * 28 * 28 + 2 * 6 * 14 * 14)


@needs_kernels
def test_pointnet_needs_a_tenth_of_floats_and_nothing_as_wide_as_what_the_maximum_is_over():
    make, splits = of_ours("pointnet", 32, 1024, 3), [4, 5, 6, 7, 8]
    methods = named(splits, 8)
    floats, integers = (plan(*make(), precision=p, methods=methods) for p in ("fp32", "int8"))
    for float_, p in zip(floats.predictions, integers.predictions, strict=True):
        assert float_.method == p.method
        assert float_.peak.peak_bytes > 10 * p.peak.peak_bytes
        assert max(p.peak.modules.values()) < 32 * 1024 * 1024 / 4  # 128 channels, and weights


@needs_kernels
def test_a_layer_computed_again_needs_no_more():
    make, _ = MODELS["lenet5"]
    network, step = prepared(make, None)
    step()
    gc.collect()
    usual = peak_bytes(step)
    for layer in network.weighted():
        layer.shift += 1  # the last pass's, which no longer holds
    assert peak_bytes(step) == usual


@needs_kernels
@pytest.mark.parametrize(
    ("budget", "chosen"),
    [
        (309_028, "elastic-2"),  # which needs no more than full ZO
        ("450KB", "elastic-2"),
        ("1GB", "full-bp"),
    ],
)
def test_the_most_bp_that_fits_is_chosen(budget, chosen):
    found = plan(*of_ours("lenet5", *IMAGES)(), budget, precision="int8")
    assert found.best.method == chosen
    line = f"{chosen}, the most BP that fits in "
    assert found.table().splitlines()[-1].startswith(line)


@needs_kernels
def test_where_nothing_fits_it_says_what_would():
    found = plan(*of_ours("lenet5", *IMAGES)(), 309_027, precision="int8", methods=["full-zo"])
    assert found.best is None
    assert "nothing fits in 309,027 B: the least is 309,028 B; lower" in found.table()


def test_a_split_whose_sums_could_overflow_is_told_and_left_out():
    def wide():
        layers = [nn.Conv2d(1, 1, 1), nn.Conv2d(1, 600, 15), nn.Flatten(), nn.Linear(600, 2)]
        return nn.Sequential(*layers), torch.zeros(2, 1, 15, 15)

    found = plan(*wide(), "1GB", precision="int8", methods=["elastic-2", "full-bp"])
    assert [p.method for p in found.predictions] == ["elastic-2"]
    ((method, why),) = found.impossible
    assert method == "full-bp" and "133144 products a sum" in why and "got 135000" in why
    assert f"full-bp can't run: {why}" in found.table()
    assert found.best.method == "elastic-2"
    with pytest.raises(ops.SumTooLong, match="got 135000"):
        prepared(wide, 3)[1]()


def test_relative_time_grows_with_the_backward_pass():
    found = plan(*of_ours("lenet5", *IMAGES)(), precision="int8")
    times = {p.method: p.relative_time for p in found.predictions}
    assert 1 <= times["full-zo"] < times["elastic-1"]
    assert times["elastic-2"] < times["elastic-3"] < times["elastic-4"]
    assert times["full-bp"] > 2  # a gradient's sums take longer than a product's


@needs_kernels
def test_stand_ins_take_what_the_kernels_take_and_count_their_time():
    real = {name for name in dir(compiled._kernels.Kernels) if not name.startswith("_")}
    assert {name for name in dir(_simulated.Native) if not name.startswith("_")} == real
    spent = []
    x, layer = torch.ones(8, 5, dtype=torch.int8), Layer(torch.ones(3, 5).char())
    with kernels.simulated(spent.append):
        y = kernels.accumulators(x, layer)
    assert y.shape == (8, 3)
    seconds = 5 * _simulated.PRODUCT_SECONDS + _simulated.ACCUMULATOR_SECONDS
    assert spent == [pytest.approx(8 * 3 * seconds)]


@needs_kernels
def test_another_thread_trains_on_while_a_plan_is_made():
    x = torch.full((4, 8), 2, dtype=torch.int8)
    found = []
    with kernels.simulated(lambda _: None):
        other = threading.Thread(target=lambda: found.append(kernels.accumulators(x, Layer(x))))
        other.start()
        other.join()
    assert found[0].eq(2 * 2 * 8).all()


def test_model_input_and_later_steps_are_left_alone():
    make, _ = MODELS["small"]
    model, x = make()
    kernels.kept().clear()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    random = torch.get_rng_state()
    plan(model, x, precision="int8")
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert int8_loss.tables()[0].tolist() == list(int8_loss._EXP2)  # real ones, not shapes
    assert prepared(make, 1)[1]().total() > 0


def test_a_layer_without_an_integer_form_is_an_error():
    model = nn.Sequential(nn.Linear(3, 4), nn.GELU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match="can't convert model.1, GELU.*no integer form"):
        plan(model, torch.zeros(2, 3), precision="int8")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": lambda out: out.sum()}, "integer loss .* for int8, got a loss; leave that out"),
        ({"bp_optimizer": torch.optim.Adam}, "got a bp_optimizer; leave that out, or use fp32"),
        ({"x": (torch.zeros(2, 3), torch.zeros(2, 3))}, "expected one input, .* got tuple"),
        ({"methods": ["elastic-3"]}, "expected bp from 0 to 2 layers or 'all', got 3"),
        ({"precision": "int4"}, "unknown precision 'int4'; known: bf16, fp16, fp32, int8, int8"),
    ],
)
def test_what_integers_do_not_take_is_an_error(given, message):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=message):
        plan(model, **{"x": torch.zeros(2, 3), "precision": "int8", **given})


@pytest.mark.parametrize("precision", catalogue.names("precision"))
def test_every_precision_can_be_planned(precision):
    found = plan(*small(), precision=precision)
    assert [p.method for p in found.predictions] == ["full-zo", "elastic-1", "full-bp"]
    assert [p.begins for p in found.predictions] == ["", "4", "0"]


@pytest.mark.parametrize("precision", catalogue.names("precision"))
def test_frozen_layers_count_in_no_precision(precision):
    model, x = small()
    model[0].requires_grad_(False)
    found = plan(model, x, precision=precision).predictions[-1]
    assert (found.bp_layers, found.begins) == (1, "4")


def test_command_line_prints_the_table_and_draws(capsys, tmp_path):
    plot = tmp_path / "plan.svg"
    arguments = ["plan", "--model", "lenet5", "--batch", "8", "--budget", "1MB"]
    assert main([*arguments, "--precision", "int8", "--plot", str(plot)]) == 0
    out = capsys.readouterr().out
    make = of_ours("lenet5", 8, 1, 28, 28)
    assert out == plan(*make(), "1MB", precision="int8").table() + "\n"
    assert "elastic-4" in plot.read_text()


def test_command_line_names_the_layer_that_has_no_integer_form(capsys, monkeypatch):
    layers = nn.Flatten(), nn.Linear(784, 3), nn.Tanh()
    monkeypatch.setattr(lenet5, "build", lambda *given: nn.Sequential(*layers))
    assert main(["plan", "--model", "lenet5", "--precision", "int8"]) == 2
    assert "ezo: can't convert model.2, Tanh" in capsys.readouterr().err
