"""Faults that users of neighbouring projects reported: each with its whole kind."""

import contextlib
import copy
import dataclasses
import gc
import math
import warnings

import pytest
import torch
from torch import nn
from torch.testing._internal.distributed.fake_pg import FakeStore

from ezo import catalogue, checkpoint, int8
from ezo.livebytes import LiveBytes, step_peak
from ezo.plan import plan
from ezo.plan.prediction import FROZEN_AT_START, _told
from ezo.plan.simulation import simulate
from ezo.train import Run, train
from tests import sweeps
from tests.backends import on
from tests.test_optimizers import FLOAT, INTEGER, Kind, both, float_model, same, weights

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


# --- buffers that a forward pass writes -----------------------------------------------------------


class Codebook(nn.Module):
    """Moves a buffer at each pass, and its output depends on it."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.register_buffer("book", torch.linspace(-1, 1, 12))
        self.register_buffer("mask", torch.ones(12))  # is only read
        self.register_buffer("nothing", None)
        self.calls = 0

    def forward(self, x):
        y = x * self.book.clone() * self.mask
        with torch.no_grad():
            self.calls += 1
            new = 0.9 * self.book + 0.1 * x.detach().mean(0)
            if self.how == "in place":
                self.book.copy_(new)
            elif self.how == "data":
                self.book.data.copy_(new)
            else:
                self.book = new
        return y


def with_codebook(how):
    return nn.Sequential(*float_model()[:1], nn.Linear(24, 12), Codebook(how), nn.Linear(12, 4))


def a_step(model, bp, where="mean", queries=1, scale=1.0):
    optimizer = FLOAT.optimizer(model, bp, lr=0.0, eps=2.0**-4, bp_gradient=where, queries=queries)
    optimizer.step(lambda: scale * FLOAT.loss(model))
    return optimizer


@pytest.mark.parametrize("how", ["in place", "data", "bound anew"])
@pytest.mark.parametrize("bp", [0, 1, "all"])
@pytest.mark.parametrize("queries", [1, 2])
def test_any_buffer_counts_one_pass_a_step(how, bp, queries):
    torch.manual_seed(0)
    model = with_codebook(how)
    other = copy.deepcopy(model)
    optimizer = a_step(model, bp, "unperturbed", queries)
    losses = [e for e in optimizer.estimates]
    seen = model[2].book
    passes = 1 if bp == "all" else 2 * queries + (bp != 0)
    assert model[2].calls == passes
    # each pass began with the same book: the losses are those of a model that never moves its own
    still = copy.deepcopy(other)
    still[2].forward = lambda x: x * still[2].book * still[2].mask
    assert a_step(still, bp, "unperturbed", queries).estimates == losses
    book = seen.clone()
    for k in range(3):
        optimizer.step(lambda k=k: FLOAT.loss(model, k))
    assert model[2].calls == 4 * passes and not torch.equal(book, model[2].book)
    # the step's first pass, of a step where nothing is perturbed, is the one that counts
    if bp == "all":
        FLOAT.loss(other)
        assert torch.equal(book, other[2].book)


@pytest.mark.parametrize("how", ["in place", "data", "bound anew", "batch norm"])
@pytest.mark.parametrize("bp", [0, 1, "all"])
@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize("bad", [math.nan, KeyError])
def test_a_loss_that_is_not_finite_leaves_no_trace_in_any_buffer(how, bp, at, bad):
    model = with_codebook(how) if how != "batch norm" else nn.Sequential(
        nn.Linear(12, 24), nn.BatchNorm1d(24), nn.Linear(24, 4)
    )  # fmt: skip
    optimizer = FLOAT.optimizer(model, bp, lr=1e-3, eps=1e-3)
    optimizer.step(lambda: FLOAT.loss(model))
    before = {name: b.clone() for name, b in model.named_buffers()}
    objects = dict(model.named_buffers())
    count = []

    def closure():
        count.append(1)
        loss = FLOAT.loss(model, 1)
        if len(count) == (1 if bp == "all" else at):
            if bad is KeyError:
                raise KeyError
            return loss * bad
        return loss

    with contextlib.suppress(KeyError):
        optimizer.step(closure)
    assert all(torch.equal(b, before[name]) for name, b in model.named_buffers())
    assert all(b is objects[name] for name, b in model.named_buffers())
    optimizer.step(lambda: FLOAT.loss(model, 1))
    assert any(not torch.equal(b, before[name]) for name, b in model.named_buffers())


def test_a_buffer_that_is_first_written_late_is_told_where_it_can_not_be_undone():
    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", torch.zeros(()))
            self.counts = False

        def forward(self, x):
            if self.counts:
                self.count += 1
            return x

    model = nn.Sequential(nn.Linear(12, 24), Late(), nn.Linear(24, 4))
    optimizer = FLOAT.optimizer(model, 0, lr=1e-3, eps=1e-3)
    optimizer.step(lambda: FLOAT.loss(model))
    model[1].counts = True
    with pytest.warns(RuntimeWarning, match=r"1\.count: expected no buffer .* set it again"):
        optimizer.step(lambda: FLOAT.loss(model) * math.nan)
    model[1].count.zero_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step(lambda: FLOAT.loss(model) * math.nan)
        assert model[1].count == 0
        optimizer.step(lambda: FLOAT.loss(model))
        assert model[1].count == 1


def test_only_buffers_that_a_pass_writes_are_copied():
    model = with_codebook("in place")
    model[2].register_buffer("big", torch.zeros(1 << 18))
    optimizer = FLOAT.optimizer(model, 0, lr=1e-3, eps=1e-3)
    peak = step_peak(lambda: (model, lambda: optimizer.step(lambda: FLOAT.loss(model))))
    assert peak.peak_bytes < (1 << 20) + 40_000


# --- a scaled loss, several ranks -----------------------------------------------------------------


@both
@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("steps_before", [0, 3])
def test_a_loss_that_a_scaler_scaled_is_refused_before_anything_moves(kind, enabled, steps_before):
    model, optimizer = kind.make(0)
    for _ in range(steps_before):
        optimizer.step(lambda: kind.loss(model))
    scaler = torch.amp.GradScaler("cpu", enabled=enabled)
    scale = torch.amp.GradScaler.scale
    before = weights(model)

    def closure():
        scaler.scale(torch.ones(1))
        return kind.loss(model)

    if enabled:
        with pytest.raises(ValueError, match="scaled by a GradScaler; leave the scaler out"):
            optimizer.step(closure)
        assert same(before, weights(model))
    else:
        optimizer.step(closure)
    assert torch.amp.GradScaler.scale is scale


def test_a_scaler_s_own_step_is_told_what_to_do():
    model, optimizer = FLOAT.make("all")
    scaler = torch.amp.GradScaler("cpu")
    scaler.scale(FLOAT.loss(model)).backward()
    with pytest.raises(ValueError, match="leave the scaler out and call optimizer.step"):
        scaler.step(optimizer)
    kind_loss = optimizer.step(lambda: FLOAT.loss(model))
    assert torch.isfinite(kind_loss)


@contextlib.contextmanager
def ranks(n):
    dist = torch.distributed
    dist.init_process_group("fake", rank=0, world_size=n, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


@both
def test_several_ranks_are_refused_where_zo_trains(kind):
    model, optimizer = kind.make(1)
    with ranks(2):
        with pytest.raises(ValueError, match="torch.distributed with 2 ranks.*bp='all'"):
            kind.make(1)
        with pytest.raises(ValueError, match="torch.distributed with 2 ranks"):
            kind.train(model, optimizer)
        kind.train(*kind.make("all"))
    with ranks(1):
        kind.train(*kind.make(1))


# --- complex weights, rows that nothing trains ----------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("backend", ["", "reference"])
def test_complex_weights_move_in_both_parts_and_come_back(dtype, backend):
    w = torch.complex(torch.arange(6.0) / 8, -torch.arange(6.0) / 4).to(dtype).view(2, 3)
    start, real = w.clone(), torch.view_as_real(w).clone()
    with on(backend):
        sweeps.shift_([w], seed=3, step=1, eps=0.5)
        sweeps.shift_([real], seed=3, step=1, eps=0.5)
        assert torch.equal(torch.view_as_real(w), real)
        assert not (w.real == start.real).any() and not (w.imag == start.imag).any()
        sweeps.shift_([w], seed=3, step=1, eps=0.5, times=-1.0)
    assert torch.equal(w, start)


def test_a_model_with_complex_weights_trains():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.complex(torch.ones(12, 8), torch.zeros(12, 8)) / 8)
            self.last = nn.Linear(8, 4)

        def forward(self, x):
            return self.last((x.to(self.w.dtype) @ self.w).abs())

    model = Model()
    optimizer = FLOAT.optimizer(model, 1, lr=1e-3, eps=1e-3)  # warnings are errors
    FLOAT.train(model, optimizer, 3)
    assert model.w.imag.abs().min() > 0


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
@pytest.mark.parametrize("queries", [1, 2])
def test_the_row_of_padding_is_held_under_zo_as_under_bp(kind, queries):
    torch.manual_seed(0)
    model = nn.Sequential(kind(7, 5, padding_idx=2), nn.Flatten(), nn.LazyLinear(3))
    tokens = torch.tensor([[1, 2, 3], [4, 2, 6]])
    model(tokens)
    theta, seen = model[0].weight.detach().clone(), []
    optimizer = FLOAT.optimizer(model, 1, lr=1e-2, eps=1e-2, queries=queries, weight_decay=0.1)

    def closure():
        seen.append(model[0].weight[2].detach().clone())
        return model(tokens).square().mean()

    for _ in range(3):
        optimizer.step(closure)
    assert all(torch.equal(row, theta[2]) for row in [*seen, model[0].weight[2]])
    rest = [0, 1, 3, 4, 5, 6]
    assert (model[0].weight[rest] != theta[rest]).all()


def test_a_row_of_padding_of_tied_weights_trains():
    embedding, last = nn.Embedding(7, 5, padding_idx=2), nn.Linear(5, 7, bias=False)
    last.weight = embedding.weight
    model = nn.Sequential(embedding, nn.Tanh(), last)
    theta = last.weight.detach().clone()
    FLOAT.optimizer(model, 0, lr=1e-2).step(lambda: model(torch.arange(7)).square().mean())
    assert (last.weight[2] != theta[2]).all()


# --- plans of operators with a workspace of their own ---------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind, **how):
        super().__init__()
        self.r = kind(8, 16, batch_first=True, **how)
        self.last = nn.Linear(16, 4)

    def forward(self, x):
        return self.last(self.r(x)[0][:, -1])


class Attention(nn.Module):
    def __init__(self, layers=1):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder, self.last = nn.TransformerEncoder(layer, layers), nn.Linear(8, 4)

    def forward(self, x):
        x = F.scaled_dot_product_attention(x, x, x, is_causal=True)
        return self.last(self.encoder(x).mean(1))


MODELS = {
    "lstm": lambda: Recurrent(nn.LSTM),
    "lstm, eval": lambda: Recurrent(nn.LSTM).eval(),
    "lstm of two layers": lambda: Recurrent(nn.LSTM, num_layers=2),
    "gru": lambda: Recurrent(nn.GRU),
    "rnn": lambda: Recurrent(nn.RNN),
    "attention": Attention,
    "attention of two layers": lambda: Attention(2),
    "attention, eval": lambda: Attention(2).eval(),  # by torch's fast path
}


@pytest.mark.parametrize("name", MODELS)
def test_a_plan_s_line_is_the_measured_peak_or_says_at_least(name):
    build = MODELS[name]
    found = plan(build(), torch.empty(16, 20, 8), "1GB", methods=("full-zo", "elastic-1"))
    file = catalogue.find("precision", "fp32")
    for line in found.predictions:

        def prepare(method=line.method):
            step = file.make_step("fp32", build(), method, file.default(method))
            x, y = torch.randn(16, 20, 8), torch.zeros(16, dtype=torch.int64)
            return step.model, lambda: step(x, y)

        measured, told = step_peak(prepare).peak_bytes, line.peak.peak_bytes
        marked = ("mkldnn_rnn_layer",) if "lstm" in name and line.method == "elastic-1" else ()
        assert line.hidden == marked and (told < measured if marked else told == measured)
        assert found.fits(line) == (not marked)
    text = found.table()
    assert ("at least, by mkldnn_rnn_layer" in text) == ("lstm" in name)
    assert found.best.method == ("full-zo" if "lstm" in name else "elastic-1")
    none = plan(build(), torch.empty(16, 20, 8), "1KB", methods=("elastic-1",)).table()
    assert ("no; at least" in none) == ("nothing surely fits" in none) == ("lstm" in name)


class Bags(nn.Module):
    def __init__(self, last=False, dtype=torch.float32, **how):
        super().__init__()
        self.bag = nn.EmbeddingBag(10, 4, include_last_offset=last, dtype=dtype, **how)
        self.last, self.ends = nn.Linear(4, 2), last

    def forward(self, x):
        offsets = torch.arange(0, x.numel() + self.ends, x.shape[1])
        return self.last(self.bag(x.flatten(), offsets).float())


BAGS = [
    {"mode": "sum", "last": True},
    {"mode": "sum", "padding_idx": 2},
    {"mode": "sum", "dtype": torch.bfloat16},
    {"mode": "sum", "dtype": torch.float64, "last": True},
    {"mode": "mean", "last": True},
    {"mode": "max", "padding_idx": 2, "last": True},
]


def forward_and_back(build, graded, *shape):
    """As `peaks`, of the two passes, or of one that records no gradient."""

    def prepare():
        model, x = build(), torch.ones(shape, dtype=torch.int64)

        def step():
            with torch.set_grad_enabled(graded):
                out = model(x).sum()
            if graded:
                out.backward()
            model.zero_grad(set_to_none=True)

        return model, step

    return simulate(prepare), step_peak(prepare).peak_bytes


def peaks(build, method, *shape):
    """A method's step: as simulated, and the bytes that it took."""
    file = catalogue.find("precision", "fp32")

    def prepare():
        step = file.make_step("fp32", build(), method, file.default(method))
        x, y = torch.ones(shape, dtype=torch.int64), torch.zeros(shape[0], dtype=torch.int64)
        return step.model, lambda: step(x, y)

    return simulate(prepare), step_peak(prepare).peak_bytes


@pytest.mark.parametrize("how", BAGS, ids=lambda how: " ".join(map(str, how.values())))
def test_an_embedding_bag_s_plan_is_the_measured_peak(how):
    for graded in (True, False):
        told, measured = forward_and_back(lambda: Bags(**how), graded, 3, 4)
        assert told.peak.peak_bytes == measured and not told.hidden


def test_the_bytes_of_an_embedding_bag_s_plan():
    known = 50 * 4 + 12 * 8 + 3 * 8  # parameters, indices, labels
    made = 3 * 8 + 3 * 4 * 4 + 2 * 3 * 8  # offsets, output, bags' sizes, another copy of these
    for mode, more in (("sum", 0), ("mean", 13 * 8)):  # whose bag each index is, and one place
        told, measured = peaks(lambda mode=mode: Bags(mode=mode), "full-zo", 3, 4)
        assert told.peak.peak_bytes == measured == known + made + more


@pytest.mark.parametrize(
    "loss", [F.binary_cross_entropy, F.mse_loss, F.smooth_l1_loss, F.soft_margin_loss]
)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_reduced_loss_keeps_the_bytes_of_every_place(loss, reduction):
    class Loss(nn.Module):
        def forward(self, x):
            return loss(x.float(), torch.ones(5, 8), reduction=reduction)

    told, measured = forward_and_back(Loss, False, 5, 8)
    # integers, floats, targets, losses
    assert told.peak.peak_bytes == measured == 40 * (8 + 4 + 4 + 4)


@pytest.mark.parametrize("graded", [True, False])
def test_what_reads_values_is_an_error_that_names_it(graded):
    def prepare():
        x, at = torch.ones(4, 3, requires_grad=graded), torch.tensor([1, 2])
        return nn.Identity(), lambda: x.tensor_split(at)

    with pytest.raises(ValueError, match=r"values are read by .*x\.tensor_split\(at\); measure"):
        simulate(prepare)


def test_a_check_that_finds_nothing_amiss_is_passed_in_a_plan():
    def prepare():
        x = torch.ones(4, 3)
        return nn.Identity(), lambda: F.gaussian_nll_loss(x, x, x)

    assert simulate(prepare).peak.peak_bytes == step_peak(prepare).peak_bytes


def test_batch_norm_s_gradient_lies_as_its_input_does():
    def prepare():
        norm, x = nn.BatchNorm2d(8, affine=False).eval(), torch.ones(4, 8, 9, 9)
        x = x.contiguous(memory_format=torch.channels_last).requires_grad_()

        def step():
            y = x.clone()
            norm(y).sum().backward()
            x.grad = None

        return norm, step

    told, measured = simulate(prepare), step_peak(prepare).peak_bytes
    # the input, its copy and the gradient, which accumulates as it lies; statistics
    assert told.peak.peak_bytes == measured == 3 * (4 * 8 * 9 * 9 * 4) + 2 * 8 * 4 + 8 + 2 * 4


def test_a_gated_unit_s_gradient_is_contiguous():
    def prepare():
        x = torch.ones(4, 8, 9, 9).contiguous(memory_format=torch.channels_last).requires_grad_()

        def step():
            y = x.clone()
            F.glu(y, 1).sum().backward()
            x.grad = None

        return nn.Identity(), step

    told, measured = simulate(prepare), step_peak(prepare).peak_bytes
    # the input, its copy, the gradient, and this put in the input's order; the sum and its gradient
    assert told.peak.peak_bytes == measured == 4 * (4 * 8 * 9 * 9 * 4) + 2 * 4


def test_an_image_from_columns_keeps_their_bytes():
    def prepare():
        columns = torch.ones(1, 2 * 9, 16)
        return nn.Identity(), lambda: F.fold(columns, (6, 6), 3).sum()

    told, measured = simulate(prepare), step_peak(prepare).peak_bytes
    assert told.peak.peak_bytes == measured == 2 * (18 * 16 * 4) + 4


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_plan_of_sparse_gradients_says_at_least(kind):
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            how = {} if kind is nn.Embedding else {"mode": "sum"}
            self.e, self.last = kind(10, 4, sparse=True, **how), nn.Linear(4, 2)

        def forward(self, x):
            return self.last(self.e(x).reshape(len(x), -1, 4).sum(1))

    made = {
        nn.Embedding: "_sparse_coo_tensor_with_dims_and_tensors",
        nn.EmbeddingBag: "_embedding_bag_backward",
    }
    for method in ("full-zo", "elastic-1", "full-bp"):
        told, measured = peaks(Sparse, method, 3, 4)
        if method == "full-bp":
            assert told.hidden == (made[kind],) and told.peak.peak_bytes < measured == 1268
        else:
            assert not told.hidden and told.peak.peak_bytes == measured


@pytest.mark.filterwarnings("ignore:Sparse .*(is in beta|checks are implicitly)")
@pytest.mark.parametrize("layout", ["coo", "csr", "csc", "bsr", "bsc"])
def test_bytes_of_a_sparse_tensor_are_its_parts(layout):
    live = LiveBytes()
    with live:
        ends, places = torch.arange(4), torch.arange(3)
        values = torch.ones(3) if layout in ("coo", "csr", "csc") else torch.ones(3, 2, 2)
        if layout == "coo":
            made = torch.sparse_coo_tensor(
                torch.stack((places, places)), values, check_invariants=True
            )
        else:
            kind = getattr(torch, f"sparse_{layout}")
            made = torch.sparse_compressed_tensor(ends, places, values, layout=kind)
        copy = made.clone()
        del ends, places, values, made
        live.restart()
    entries = {"coo": 6 * 8 + 3 * 4, "csr": 7 * 8 + 3 * 4, "bsr": 7 * 8 + 12 * 4}
    expected = entries[layout.replace("csc", "csr").replace("bsc", "bsr")]
    assert live.at_peak().peak_bytes == expected, copy


def test_a_layout_whose_bytes_no_one_sees_is_an_error():
    def prepare():
        x = torch.ones(8, 8)
        return nn.Identity(), lambda: x.to_mkldnn()

    with pytest.raises(
        ValueError, match=r"expected dense and sparse .* layout torch\._mkldnn; call"
    ):
        step_peak(prepare)


# --- words ----------------------------------------------------------------------------------------


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused = nn.Linear(12, 4), nn.Linear(12, 4)

    def forward(self, x):
        return self.used(x)


class ModelOutput(dict):
    """As a transformer of others gives it."""

    @property
    def loss(self):
        return self["loss"]


def own_gradient(model):
    loss = FLOAT.loss(model)
    torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return loss


WORDS = [
    (1, Unused, FLOAT.loss, "depends on the BP part.*give a bp with layers that the loss uses"),
    (0, float_model, own_gradient, r"leave backward\(\) to step\(\). Where .*enable_grad\(\)"),
    (1, float_model, own_gradient, r"leave backward\(\) to step\(\). Where .*enable_grad\(\)"),
    (
        0,
        float_model,
        lambda m: ModelOutput(loss=FLOAT.loss(m)),
        "got ModelOutput; return its f",
    ),
    (
        1,
        float_model,
        lambda m: ModelOutput(loss=FLOAT.loss(m)),
        "got ModelOutput; return its f",
    ),
    (0, float_model, lambda m: {"loss": FLOAT.loss(m)}, "got dict; return the loss itself"),
    (0, float_model, lambda m: None, "tensor or a number, got NoneType"),
    (0, float_model, lambda m: (FLOAT.loss(m), torch.ones(3)), "tensor or a number, got tuple"),
]


@pytest.mark.parametrize(("bp", "build", "closure", "words"), WORDS)
def test_a_closure_s_mistake_is_named_and_nothing_moves(bp, build, closure, words):
    model = build()
    optimizer = FLOAT.optimizer(model, bp, lr=0.0)
    optimizer.step(lambda: F.mse_loss(sum(p.sum() for p in model.parameters()), torch.ones(())))
    before = weights(model)
    with pytest.raises((ValueError, RuntimeError), match=words):
        optimizer.step(lambda: closure(model))
    assert same(before, weights(model))


def test_a_penalty_on_the_inputs_gradient_trains_as_its_words_say():
    model, x = float_model(), torch.ones(2, 12, requires_grad=True)

    def closure():
        with torch.enable_grad():
            loss = model(x).square().mean()
            (g,) = torch.autograd.grad(loss, x, create_graph=True)
            return loss + g.square().sum()

    assert torch.isfinite(FLOAT.optimizer(model, 0).step(closure))


def test_the_float_optimiser_on_an_integer_network_names_the_other():
    net = int8.from_float(float_model(), headroom=15)
    with pytest.raises(ValueError, match=r"got an integer network; train it by ezo\.int8\.Elast"):
        FLOAT.optimizer(net, 1)


@pytest.mark.parametrize("loaded", [False, True])
def test_a_scheduler_of_torch_s_on_integers_is_told_what_there_is(loaded):
    _, optimizer = INTEGER.make(1)
    if loaded:
        optimizer.load_state_dict(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"group\['rate'\] for ZO and group\['mu'\] for BP"):
        torch.optim.lr_scheduler.StepLR(optimizer, 1)
    with pytest.raises(KeyError, match="other"):
        optimizer.param_groups[0]["other"]


@pytest.mark.parametrize("of", [int8.Loss, int8.FloatLoss])
def test_labels_of_any_integers_train_and_others_are_named(of):
    net = int8.from_float(float_model(), headroom=15)
    logits = net(int8.quantize(torch.cos(torch.arange(60.0)).view(5, 12)))
    y = torch.tensor([0, 3, 1, 2, 1])
    wanted = of(logits, y)
    u = torch.zeros(5, 4, dtype=torch.int64)
    for kind in (torch.uint8, torch.int8, torch.int16, torch.int32):
        found = of(logits, y.to(kind))
        assert found.total() == wanted.total() and torch.equal(found.error(u), wanted.error(u))
    for labels in (F.one_hot(y, 4), F.one_hot(y, 4).float()):
        with pytest.raises(ValueError, match=r"\(5,\), got .*\(5, 4\); give y.argmax\(1\) for one"):
            of(logits, labels)
    for labels in (y.float(), y > 1, y[:3]):
        with pytest.raises(ValueError, match="got .*; give the index of each class"):
            of(logits, labels)


def test_images_of_any_size_and_channels_train_and_too_small_ones_are_named(monkeypatch):
    data = catalogue.find("data", "digits")
    digits = data.load("digits")

    def ended(*shape):
        x = {"train_x": torch.ones(32, *shape), "test_x": torch.ones(4, *shape)}
        y = {"train_y": digits.train_y[:32], "test_y": digits.test_y[:4]}
        monkeypatch.setattr(data, "load", lambda *_: dataclasses.replace(digits, **x, **y))
        return list(train(Run("lenet5", "digits", "elastic-1", epochs=1)))[-1].metric

    assert ended(3, 32, 20) == "finished"
    with pytest.raises(ValueError, match=r"4 x 4 pixels or more for lenet5, got \(3, 9\)"):
        ended(1, 3, 9)


# --- a finished run's weights, from the file alone ------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("method", ["elastic-2", "full-bp"])
def test_a_finished_run_s_checkpoint_is_a_state_dict_of_its_architecture(
    tmp_path, precision, method
):
    run = Run("lenet5", "digits", method, precision, epochs=1, train_examples=64)
    *_, finished = train(run, out=tmp_path)
    model = catalogue.find("model", "lenet5").build("lenet5", 10, 1)  # other weights
    names = [name for name, _ in model.named_parameters()]
    model = model if precision == "fp32" else int8.from_float(model)
    state = checkpoint.load(tmp_path / "checkpoint.safetensors")["model"]
    model.load_state_dict(state)
    assert checkpoint.digest(model.state_dict()) == finished.note
    known = [name for name in state if "exponent" not in name]
    assert known == (names if precision == "fp32" else [f"layers.{name}" for name in names])
    if precision == "int8":
        x = catalogue.find("data", "digits").load("digits").test_x
        assert model.eval()(int8.quantize_at(x, model.input_exponent)).m.shape == (len(x), 10)


def test_a_plan_with_progress_is_the_same_and_short_ones_say_nothing(capsys):
    model, x = float_model(), torch.empty(3, 12)
    assert plan(model, x, progress=True).table() == plan(model, x).table()
    assert capsys.readouterr().err == "" and gc.get_freeze_count() == 0
    gc.freeze()  # another's freeze stays
    try:
        assert plan(model, x).predictions and gc.get_freeze_count() > FROZEN_AT_START
    finally:
        gc.unfreeze()
    assert list(_told(["a", "b"])) == ["a", "b"]


def test_two_processes_do_not_train_in_one_folder(tmp_path):
    run = Run("lenet5", "digits", "full-zo", epochs=1, train_examples=64)
    first = train(run, out=tmp_path)
    next(first)
    with pytest.raises(ValueError, match="another process works here; wait until it ends"):
        next(train(run, out=tmp_path))
    rest = list(first)
    assert rest[-1].metric == "finished"
    assert list(train(run, out=tmp_path))[-1] == rest[-1]


def test_a_weight_that_the_loss_does_not_use_drifts_unless_it_is_frozen_for_the_step():
    """The decision of docs/method.md."""
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    optimizer = FLOAT.optimizer(model, 0, lr=1e-2, eps=1e-2)

    def closure():
        return model["used"](torch.ones(2, 3)).square().mean()

    optimizer.step(closure)
    theta = weights(model["unused"])
    optimizer.step(closure)
    assert not same(theta, weights(model["unused"]))
    theta = weights(model["unused"])
    model["unused"].requires_grad_(False)
    optimizer.step(closure)
    assert same(theta, weights(model["unused"]))


@pytest.mark.parametrize("method", ["full-bp", "full-bp-checkpoint", "elastic-1", "full-zo"])
def test_a_counter_counts_one_pass_a_step_by_every_method(method):
    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("n", torch.zeros((), dtype=torch.int64))

        def forward(self, x):
            self.n += 1
            return x

    model = nn.Sequential(nn.Linear(12, 24), Counter(), nn.ReLU(), Counter(), nn.Linear(24, 4))
    file = catalogue.find("precision", "fp32")
    step = file.make_step("fp32", model, method, file.default(method))
    for _ in range(3):
        step(torch.ones(4, 12), torch.arange(4))
    assert [int(model[i].n) for i in (1, 3)] == [3, 3]
