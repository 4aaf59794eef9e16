"""Streaming: against the whole batch, in steps of every split, with nodes; what is refused."""

import copy
import pickle
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.workload import Workload
from ezo import ElasticZO, Feedback, Nodes, catalogue, stream
from ezo.int8 import from_float
from ezo.plan import simulate

BOUND = 1e-5  # of the largest output; float32
N = 7  # no multiple of a chunk


def built(name):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return catalogue.find("model", name).build(name)


def batch(name):
    generator = torch.Generator().manual_seed(1)
    shape = (N, 1, 28, 28) if name == "lenet5" else (N, 32, 3)
    x = torch.randn(shape, generator=generator)
    return x, torch.arange(N) % 10


def near(found, wanted):
    return (found - wanted).abs().max() <= BOUND * wanted.abs().max()


@pytest.mark.parametrize("chunk", [1, 3, N, 100])
@pytest.mark.parametrize("name", ["lenet5", "pointnet", "pointnet-bn"])
def test_inference_is_the_whole_batchs(name, chunk):
    model, (x, _) = built(name).eval(), batch(name)
    with torch.no_grad():
        whole = model(x)
        assert near(stream(model, chunk)(x), whole)
        assert torch.equal(stream(model, None)(x), whole)
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("bp", [0, 1, 2, 3, "all"])
@pytest.mark.parametrize("bp_gradient", ["mean", "last"])
@pytest.mark.parametrize("name", ["lenet5", "pointnet"])
def test_a_step_finds_the_whole_batchs_losses_and_gradients(name, bp, bp_gradient):
    x, y = batch(name)
    found = []
    for chunk in (None, 2):
        model = stream(built(name), chunk)
        how = {"lr": 1e-3, "clip": 5.0, "bp_gradient": bp_gradient}
        optimizer = ElasticZO(model, bp, **how)
        optimizer.step(lambda model=model: cross_entropy(model(x), y))
        losses = [loss for of in optimizer.estimates for loss in of if loss is not None]
        found.append((losses, [p.grad for p in model.parameters() if p.grad is not None]))
    (whole, gradients), (streamed, others) = found
    assert streamed == pytest.approx(whole, rel=1e-6)
    assert len(gradients) == len(others) > 0 or bp == 0
    for a, b in zip(others, gradients, strict=True):
        assert near(a, b)


def test_the_layers_that_bp_trains_get_the_whole_batch_in_every_pass():
    model, (x, y) = stream(built("lenet5"), 2), batch("lenet5")
    seen = {i: [] for i in (0, 11)}
    for i, of in seen.items():
        model[i].register_forward_pre_hook(lambda _, args, of=of: of.append(len(args[0])))
    optimizer = ElasticZO(model, 1, bp_gradient="last")
    for _ in range(2):
        optimizer.step(lambda: cross_entropy(model(x), y))
    assert seen[0][-4:] == [2, 2, 2, 1]
    assert seen[11] == [N] * 4


@pytest.mark.parametrize("nodes", [Nodes(), Nodes(clip=None), Feedback()])
@pytest.mark.parametrize(("name", "bp"), [("lenet5", 0), ("lenet5", 1), ("pointnet", 0)])
def test_nodes_have_the_noise_of_the_whole_batch(name, bp, nodes):
    """Else weights would differ by some thousand times as much."""
    if name == "pointnet" and isinstance(nodes, Feedback):
        nodes = Feedback(layers=["head.0", "head.2", "head.4"])
    x, y = batch(name)
    found = []
    for chunk in (None, 3):
        model = stream(built(name), chunk)
        optimizer = ElasticZO(model, bp, nodes=nodes, eps=1e-2, clip=1e-3)
        for _ in range(2):
            optimizer.step(lambda model=model: cross_entropy(model(x), y, reduction="none"))
        found.append([p.detach() for p in model.parameters()])
    start = [p.detach() for p in built(name).parameters()]
    moved = max(float((a - b).abs().max()) for a, b in zip(found[0], start, strict=True))
    for a, b in zip(*found, strict=True):
        assert (a - b).abs().max() < 1e-3 * moved


def test_nodes_and_micro_batches_and_chunks_go_together():
    x, y = batch("lenet5")
    found = []
    for chunk in (None, 2):
        model = stream(built("lenet5"), chunk)

        def closure(model=model):
            for part in (slice(0, 5), slice(5, N)):
                yield cross_entropy(model(x[part]), y[part], reduction="none")

        ElasticZO(model, 0, nodes=True).step(closure)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert near(*found)


def test_a_loss_that_is_not_finite_and_an_error_leave_no_trace():
    model, (x, y) = stream(built("lenet5"), 2), batch("lenet5")
    optimizer = ElasticZO(model, 1)
    optimizer.step(lambda: cross_entropy(model(x), y))
    before = copy.deepcopy(model.state_dict())
    optimizer.step(lambda: cross_entropy(model(x), y) * torch.inf)
    with pytest.raises(RuntimeError, match="Sizes of tensors"):
        optimizer.step(lambda: cross_entropy(model(torch.cat([x, x[..., :5]])), y))
    assert all(map(torch.equal, model.state_dict().values(), before.values()))
    with torch.no_grad():
        assert len(model(x)) == N


def test_copies_and_pickles_are_streamed_and_work_on_their_own_weights():
    model, (x, _) = stream(built("lenet5"), 2).eval(), batch("lenet5")
    with torch.no_grad():
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            other[0].weight.zero_()
            sizes = []
            other[0].register_forward_hook(lambda _, args, y, of=sizes: of.append(len(y)))
            assert not near(other(x), model(x))
            assert sizes[-4:] == [2, 2, 2, 1]
    names = [[node.name for node in from_float(m).nodes] for m in (model, built("lenet5"))]
    assert names[0] == names[1]


@pytest.mark.parametrize("size", [2, (2, 3), 1])
@pytest.mark.parametrize("channels_last", [False, True])
def test_maxima_without_indices_are_torchs(size, channels_last):
    x = torch.randn(5, 3, 9, 11)
    x[0, 0, 0, 0] = torch.nan
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    pool = nn.MaxPool2d(size)
    wanted = pool(x)
    with torch.no_grad():
        found = stream(nn.Sequential(pool), 2)(x)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert found.is_contiguous(memory_format=torch.channels_last) == channels_last


@pytest.mark.parametrize(
    "how", [{"padding": 1}, {"stride": 1}, {"dilation": 2}, {"ceil_mode": True}]
)
def test_other_maxima_are_left_to_torch(how):
    x, pool = torch.randn(3, 2, 9, 9), nn.MaxPool2d(2, **how)
    wanted = pool(x)
    with torch.no_grad():
        assert torch.equal(stream(nn.Sequential(pool), 2)(x), wanted)


def test_a_relu_writes_in_place_where_only_it_takes_its_input():
    x = torch.randn(4, 3)
    inputs, outputs = [], []
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2))
    plain = copy.deepcopy(model)
    stream(model, 4)
    model[1].register_forward_hook(lambda _, args, y: inputs.append(args[0].data_ptr()))
    with torch.no_grad():
        model(x)
        model[0].register_forward_hook(lambda _, args, y: outputs.append(y.detach()))
        model(x)
        assert torch.equal(outputs[-1], plain[0](x))  # another's hook sees what it would
        plain_input = x - 0.5
        kept = plain_input.clone()
        stream(nn.Sequential(nn.ReLU()), 4)(plain_input)
        assert torch.equal(plain_input, kept)


class Meeting(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Rolling(nn.Module):
    def forward(self, x):
        return x.roll(1, 0)


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x


class Mean(nn.Module):
    def forward(self, x):
        return x.mean()


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Meeting(), "'1', Meeting, whose output for an example depends on the others"),
        (Rolling(), "'1', Rolling, whose output"),
        (Counting(), "writes to 1.calls, once a chunk"),
        (Mean(), "with its examples first"),
        (nn.BatchNorm1d(4), "'1', BatchNorm1d in training"),
        (nn.BatchNorm1d(4, track_running_stats=False), "'1', BatchNorm1d in training"),
        (nn.Softmax(0), "'1', Softmax, whose output"),
    ],
)
def test_examples_that_meet_are_refused_by_name(module, says):
    model = stream(nn.Sequential(nn.Linear(3, 4), module), 2)
    state = torch.get_rng_state()
    with torch.no_grad(), pytest.raises(ValueError, match=says):
        model(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(not b.any() for b in model.buffers() if b.dim() == 0)


def test_batch_norm_may_be_in_the_part_of_bp_and_in_evaluation():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    stream(model, 2)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    optimizer = ElasticZO(model, 1)
    optimizer.step(lambda: model(x).square().mean())
    assert model[3].num_batches_tracked == 1
    with torch.no_grad():
        assert near(model.eval()(x), stream(model, None)(x))


def test_dropout_is_the_same_in_all_passes_and_none_in_the_look():
    model = stream(nn.Sequential(nn.Linear(3, 40), nn.Dropout(0.5), nn.Linear(40, 2)), 2)
    x = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    optimizer = ElasticZO(model, 0, eps=1e-7)
    torch.manual_seed(3)
    optimizer.step(lambda: model(x).square().mean())
    (estimate,) = optimizer.estimates
    assert estimate.loss_plus == pytest.approx(estimate.loss_minus, rel=1e-3)
    once = torch.get_rng_state()
    torch.manual_seed(3)
    with torch.no_grad():
        model(x)
    assert torch.equal(torch.get_rng_state(), once)


class Net(nn.Module):
    """No front of its own."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x, scale=None):
        y = self.b(self.a(x).relu())
        return {"y": y, "twice": (y + y, None)} if scale is None else y * scale


def test_outputs_of_any_form_are_gathered_and_arguments_of_other_lengths_go_whole():
    model, x = Net(), torch.randn(5, 3)
    scale = torch.tensor([2.0, 3.0])
    with torch.no_grad():
        wanted, scaled = model(x), model(x, scale=scale)
        stream(model, 3)
        found = model(x)
        assert near(model(x=x, scale=scale), scaled)
    assert near(found["y"], wanted["y"])
    assert near(found["twice"][0], wanted["twice"][0])
    assert found["twice"][1] is None


def test_a_forward_that_joins_both_parts_warns_once():
    model, x = stream(Net(), 2), torch.randn(5, 3)
    optimizer = ElasticZO(model, 1)
    with pytest.warns(UserWarning, match="nothing of the model, Net, was streamed"):
        optimizer.step(lambda: model(x)["y"].square().mean())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: model(x)["y"].square().mean())
        full = stream(nn.Sequential(nn.Linear(3, 3), Net()), 2)
        ElasticZO(full, 1).step(lambda: full(x)["y"].square().mean())


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_is_a_number_of_examples(chunk):
    with pytest.raises(ValueError, match="expected chunk"):
        stream(nn.Linear(2, 2), chunk)


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="expected a module to stream, got Tensor"):
        stream(torch.zeros(2), 2)


@pytest.mark.parametrize(
    ("model", "chunk", "share"), [("lenet5", 8, 0.5), ("lenet5", 6, 0.4), ("pointnet", 1, 0.05)]
)
def test_bytes_of_full_zo_over_whole_inferences(model, chunk, share):
    """As a plan says, which is what is measured (`tests.test_memory`)."""
    case = Workload(model, "inference", 32)
    whole = simulate(case.prepare).peak.peak_bytes
    streamed = replace(case, method="full-zo", chunk=chunk)
    assert simulate(streamed.prepare).peak.peak_bytes <= share * whole
