"""From float models to integer networks: what a forward may do, what is refused, what is kept."""

import copy
import inspect
import warnings
from operator import methodcaller
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from ezo import checkpoint
from ezo.int8 import network as network_file
from ezo.int8.convert import from_float
from ezo.int8.layers import Conv2d, Linear
from ezo.int8.maps import Add, Flatten, MaxPool2d, ReLU
from ezo.int8.network import INPUT, Network, Node
from ezo.int8.ops import LONGEST_SUM, SumTooLong
from ezo.int8.tensor import Int8Tensor, quantize
from ezo.int8.trace import parametric
from ezo.models import lenet5, pointnet
from ezo.plan import plan
from ezo.precisions import int8 as precision


def with_weights(model, seed=0):
    """The model with weights that torch's generator does not choose."""
    for i, p in enumerate(model.parameters()):
        n = torch.arange(p.numel(), dtype=torch.float64) + 7 * i + seed
        bound = (3 / max(p[0].numel(), 1)) ** 0.5
        p.data = ((n * 0.6180339887 % 1 * 2 - 1) * bound).float().view(p.shape)
    return model


def kinds(net):
    return [type(layer).__name__ for layer in net.layers]


def same(a, b):
    """Equal layers, weights and exponents."""
    settings = [
        [(x.padding if hasattr(x, "padding") else getattr(x, "size", 0)) for x in net.layers]
        for net in (a, b)
    ]
    one, other = a.state_dict(), b.state_dict()
    return (
        kinds(a) == kinds(b)
        and settings[0] == settings[1]
        and one.keys() == other.keys()
        and all(torch.equal(one[name], other[name]) for name in one)
    )


# Chains: as modules, as functions, nested, and as integer layers put together by hand


class Functions(nn.Module):
    """A chain written with functions and methods, chosen by ``style``."""

    def __init__(self, steps, style):
        super().__init__()
        self.own = nn.ModuleList(m for m in steps if list(m.parameters()))
        self.steps, self.style = [(type(m), vars(m)) for m in steps], style

    def forward(self, x):
        own, s = iter(self.own), self.style
        width = next((m.in_features for m in self.own if isinstance(m, nn.Linear)), None)
        for kind, of in self.steps:
            of = SimpleNamespace(**of)
            if kind is nn.Linear:
                m = next(own)
                x = m(x) if s % 2 else F.linear(x, m.weight, m.bias)
            elif kind is nn.Conv2d:
                m = next(own)
                x = m(x) if s % 3 else F.conv2d(x, m.weight, m.bias, padding=m.padding[0])
            elif kind is nn.ReLU:
                x = (methodcaller("relu"), F.relu, torch.relu, F.relu_)[s % 4](x)
                if s % 5 == 0:
                    torch.relu_(x)  # in place: a second ReLU, as below
            elif kind is nn.MaxPool2d:
                k = of.kernel_size
                x = (torch.max_pool2d if s % 3 else F.max_pool2d)(x, *((k,), ((k, k), k))[s % 2])
            elif kind is nn.Flatten:
                n = x.shape[0] if s % 2 else x.size(0)
                ways = (
                    lambda x, n: x.flatten(1),
                    lambda x, n: torch.flatten(x, start_dim=1),
                    lambda x, n: x.view(n, -1),
                    lambda x, n: x.reshape((n, -1)),
                    lambda x, n: x.contiguous().view(-1, width),
                )
                x = ways[s % 5](x, n)
            else:
                x = F.dropout(x, training=self.training)
        return x


class Nested(nn.Module):
    """A chain cut in two, each half a module of its own, three deep."""

    def __init__(self, steps, cut):
        super().__init__()
        self.inner = nn.ModuleDict({"a": nn.Sequential(*steps[:cut])})
        self.rest = Functions(steps[cut:], 1) if len(steps) - cut > 1 else steps[cut]

    def forward(self, x):
        return self.rest(self.inner["a"](x))


@st.composite
def chains(draw):
    """Modules of a chain of convolutions, then linear layers; and the input's shape."""
    small = st.integers(1, 4)
    c, side, steps = draw(small), draw(st.integers(4, 9)), []
    shape = (c, side, side)
    for _ in range(draw(st.integers(0, 2))):
        out, k = draw(small), draw(st.sampled_from([1, 3] if side >= 3 else [1]))
        pad = draw(st.integers(0, k - 1))
        steps.append(nn.Conv2d(c, out, k, padding=pad, bias=draw(st.booleans())))
        c, side = out, side + 2 * pad - k + 1
        steps += [nn.ReLU()] * draw(st.booleans())
        if side >= 2 and draw(st.booleans()):
            steps.append(nn.MaxPool2d(2))
            side //= 2
    steps.append(nn.Flatten())
    width = c * side * side
    for last in (False, True):
        out = draw(small) + 1
        steps.append(nn.Linear(width, out, bias=draw(st.booleans())))
        width = out
        if not last:
            steps += [m for m in (nn.ReLU(), nn.Dropout()) if draw(st.booleans())]
    return with_weights(nn.Sequential(*steps)).eval(), shape


def by_hand(model, largest=127, second_relu=False):
    """The integer network of a Sequential, module by module."""
    layers = []
    for m in model:
        if isinstance(m, (nn.Linear, nn.Conv2d)):
            w = quantize(m.weight, largest)
            b = None if m.bias is None else quantize(m.bias, largest, lowest_exponent=w.e)
            layers.append(Linear(w, b) if isinstance(m, nn.Linear) else Conv2d(w, b, m.padding[0]))
        elif isinstance(m, nn.ReLU):
            layers += [ReLU() for _ in range(1 + second_relu)]
        elif isinstance(m, nn.MaxPool2d):
            layers.append(MaxPool2d(m.kernel_size))
        elif isinstance(m, nn.Flatten):
            layers.append(Flatten())
    return Network(layers)


@settings(deadline=None, max_examples=40)
@given(
    chain=chains(), style=st.integers(0, 59), headroom=st.sampled_from([0, 15, 60]), cut=st.data()
)
def test_a_chain_s_integers_don_t_depend_on_how_it_is_written(chain, style, headroom, cut):
    model, shape = chain
    at = cut.draw(st.integers(0, len(model) - 1))
    wanted = by_hand(model, 127 - headroom)
    assert same(from_float(model, headroom), wanted)
    functions = Functions(list(model), style).eval()
    doubled = by_hand(model, 127 - headroom, second_relu=style % 5 == 0)
    found = from_float(functions, headroom)
    assert same(found, doubled)
    assert same(from_float(Nested(list(model), at).eval(), headroom), wanted)
    assert same(from_float(nn.Sequential(functions), headroom), doubled)
    x = quantize(torch.randn(2, *shape, generator=torch.Generator().manual_seed(style)))
    assert torch.equal(found(x).m, wanted(x).m)
    names = [node.name for node in found.nodes]
    assert len({INPUT, *names}) == len(names) + 1
    assert [node.inputs for node in found.nodes] == [(name,) for name in (INPUT, *names[:-1])]


class Own(nn.Module):
    """A user's model: nested modules, one ReLU at three places, registered in another order."""

    def __init__(self):
        super().__init__()
        self.classify = nn.Linear(8, 3)
        self.act = nn.ReLU()
        self.block = nn.ModuleDict({"conv": nn.Conv2d(1, 2, 3, padding=1), "norm": nn.Identity()})
        self.hidden = nn.Linear(18, 8)

    def forward(self, image, scale=None):
        x = self.act(self.block["norm"](self.block["conv"](image)))
        x = F.max_pool2d(x, 2)
        n, *_ = x.shape if isinstance(x, torch.Tensor) else (x.shape[0],)
        x = self.act(self.hidden(F.dropout(x.view(n, -1), 0.5, self.training)))
        return self.classify(self.act(x))


def test_a_user_s_own_forward_is_followed_and_names_its_modules():
    net = from_float(with_weights(Own()).eval())
    assert [(node.name, *node.inputs) for node in net.nodes] == [
        ("block.conv", "input"),
        ("act", "block.conv"),
        ("max_pool2d", "act"),
        ("view", "max_pool2d"),
        ("hidden", "view"),
        ("act_1", "hidden"),
        ("act_2", "act_1"),
        ("classify", "act_2"),
    ]
    assert all(node.layer is layer for node, layer in zip(net.nodes, net.layers, strict=True))
    logits = net(quantize(torch.randn(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))))
    assert logits.m.shape == (4, 3)


def test_layers_count_in_the_order_of_forward_not_of_registration():
    wanted = ["block.conv", "hidden", "classify"]
    assert parametric(Own()) == precision.layers(Own().to("meta")) == wanted
    methods = ["elastic-1", "full-bp"]
    found = plan(Own().eval(), torch.empty(2, 1, 6, 6), precision="int8", methods=methods)
    begins = {line.bp_layers: line.begins for line in found.predictions}
    assert begins == {1: "classify", 3: "block.conv"}


def test_one_module_at_two_places_of_a_sequential_counts_twice():
    act = nn.ReLU()
    model = nn.Sequential(nn.Linear(3, 3), act, nn.Linear(3, 3), act, nn.Linear(3, 2))
    assert kinds(from_float(model)) == ["Linear", "ReLU"] * 2 + ["Linear"]


def test_a_single_layer_is_a_network_and_a_name_of_ours_is_not_taken():
    assert [n.name for n in from_float(nn.Linear(2, 2)).nodes] == ["linear"]
    assert parametric(nn.Linear(2, 2)) == [""]

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.weighty_weight = nn.Linear(2, 2), nn.Parameter(torch.ones(2, 2) / 3)

        def forward(self, x):
            return F.linear(self.input(x), self.weighty_weight)

    assert [n.name for n in from_float(Odd()).nodes] == ["input_1", "weighty_weight"]


def test_the_model_and_torch_s_generator_stay_as_they_were():
    model = with_weights(Own()).train(False)
    before, state, rng = copy.deepcopy(model), set(vars(model)), torch.get_rng_state()
    from_float(model, 15)
    assert set(vars(model)) == state and not model.training
    assert all(map(torch.equal, model.parameters(), before.parameters()))
    assert torch.equal(rng, torch.get_rng_state())


# Points


GOLDEN = {
    "lenet5": "c852e51b21112740",
    "pointnet": "73d7b246147b0fab",
}  # as converted by type, before models were traced


@pytest.mark.parametrize("name", GOLDEN)
def test_our_models_become_the_networks_that_they_always_became(name):
    model = (lenet5 if name == "lenet5" else pointnet).build(name)
    net = from_float(with_weights(model), headroom=15)
    assert checkpoint.digest(net.state_dict())[:16] == GOLDEN[name]


class Points(nn.Module):
    def __init__(self, turn, maximum):
        super().__init__()
        self.a, self.b, self.c = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 5, 1), nn.Linear(5, 2)
        self.turn, self.maximum = turn, maximum

    def forward(self, x):
        x = self.b(self.a(self.turn(x)).relu())
        return self.c(self.maximum(x))


@pytest.mark.parametrize(
    "turn",
    [lambda x: x.transpose(1, 2), lambda x: x.permute(0, 2, 1), lambda x: torch.swapaxes(x, 2, 1)],
)
@pytest.mark.parametrize(
    ("maximum", "more"),
    [
        (lambda x: x.amax(2), []),
        (lambda x: torch.amax(x, dim=-1), []),
        (lambda x: x.max(2)[0], []),
        (lambda x: torch.max(x, dim=2).values, []),
        (lambda x: x.transpose(2, 1).amax(1), []),
        (lambda x: x.max(2, keepdim=True)[0].squeeze(2), []),
        (lambda x: torch.max(x, 2, keepdim=True)[0].view(-1, 5), ["Flatten"]),
        (lambda x: x.amax((2,), keepdim=True).flatten(1), ["Flatten"]),
    ],
)
def test_points_may_be_turned_and_their_maximum_taken_in_any_usual_way(turn, maximum, more):
    model = with_weights(Points(turn, maximum))
    net = from_float(model)
    assert kinds(net) == ["Linear", "ReLU", "Linear", "MaxOverPoints", *more, "Linear"]
    x = torch.randn(4, 9, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(x)
    assert (net(quantize(x)).to_float() - wanted).std() < 0.05 * wanted.std()


def test_points_of_linear_layers_need_not_be_turned():
    class Cloud(Points):
        def forward(self, x):
            values, _ = F.linear(x, self.a.weight, self.a.bias).max(1)
            return self.c(values)

    model = Cloud(None, None)
    model.a, model.c = nn.Linear(3, 6), nn.Linear(6, 2)
    assert kinds(from_float(with_weights(model))) == ["Linear", "MaxOverPoints", "Linear"]


# What is refused


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.Tanh(), "Tanh.*no integer form"),
        (nn.BatchNorm1d(4), "BatchNorm1d.*right after a linear layer or a convolution"),
        (nn.LSTM(2, 2), "LSTM.*no integer form"),
        (nn.Conv2d(1, 2, 3, dilation=2), "no dilation"),
        (
            nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"),
            "circular.*zeros at the sides of images",
        ),
        (nn.Conv2d(1, 2, 3, padding=3), "below the kernel"),
        (nn.Conv1d(2, 2, 3), "pointwise"),
        (nn.Conv1d(2, 2, 1), r"turned by x.transpose\(1, 2\)"),
        (nn.MaxPool2d(3, 2), "don't overlap"),
        (nn.MaxPool2d(2, padding=1), "no padding"),
        (nn.MaxPool2d(2, ceil_mode=True), "no ceil_mode"),
        (nn.AvgPool2d(3, 2), "don't overlap"),
        (nn.AvgPool2d(3, padding=1), "no padding"),
        (nn.AdaptiveAvgPool2d(2), "output size of 1"),
        (nn.Hardtanh(0, 5), "no integer form|from 0 to 6"),
        (nn.BatchNorm2d(4), "right after a linear layer or a convolution"),
        (nn.Flatten(0), "flattened"),
    ],
    ids=lambda v: str(v)[:30],
)
def test_a_layer_that_can_t_be_converted_is_named_with_the_reason(layer, words):
    with pytest.raises(ValueError, match=f"(?s)model.0, .*{words}.*convertible are"):
        from_float(nn.Sequential(layer, nn.Linear(2, 2)))


class Foreign(nn.Module):
    """Runs ``body(self, x)``, whose line a message must name."""

    def __init__(self, body):
        super().__init__()
        self.a, self.b, self.act, self.body = nn.Linear(4, 4), nn.Linear(4, 4), nn.Tanh(), body
        self.register_buffer("table", torch.ones(4, 4))

    def forward(self, x):
        return self.body(self, x)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (lambda s, x: s.b(s.act(s.a(x))), "model.act, Tanh"),
        (lambda s, x: s.b(torch.sigmoid(s.a(x))), "sigmoid in model, Foreign, at"),
        (lambda s, x: s.b(s.a(x) + 1), "two tensors to add up, got 1"),
        (lambda s, x: s.b(s.a(x) * s.table), "no integer form of mul"),
        (lambda s, x: s.b(x[:, :4]), "take a layer's output, got another"),
        (lambda s, x: F.linear(x, s.table), "parameters, each used once"),
        (lambda s, x: F.linear(x, s.a.weight * 2), "no integer form of mul"),
        (lambda s, x: s.a(s.a(x)), "parameters, each used once"),
        (lambda s, x: s.b(torch.add(s.a(x), x, alpha=2)), "alpha of 1"),
        (lambda s, x: s.b(x + x.transpose(1, 2)), "tensors of one layout"),
        (lambda s, x: s.b(F.pad(x, (1, 1))), "zeros at the sides before a convolution"),
        (lambda s, x: s.b(x.mean(1)), "the mean of whole images"),
        (lambda s, x: s.b(F.hardtanh(s.a(x), 0, 5)), "ReLU6, from 0 to 6, got 0 to 5"),
        (lambda s, x: s.b(F.batch_norm(s.a(x), None, None)), "running statistics"),
        (lambda s, x: s.b(x.view(32, -1)), r"x.shape\[0\], -1"),
        (lambda s, x: s.b(x.view(x.shape[0], x.shape[1])), r"x.shape\[0\], -1"),
        (lambda s, x: s.b(x.reshape(-1, 2)), "expected 4 features, got 2 from a view"),
        (lambda s, x: s.b(x.view(-1, -1)), r"x.shape\[0\], -1"),
        (lambda s, x: s.b(x.flatten()), "all dimensions but the first"),
        (lambda s, x: s.b(x.transpose(0, 1)), r"turned by transpose\(1, 2\)"),
        (lambda s, x: s.b(x.permute(0, 1, 2)), r"turned by transpose\(1, 2\)"),
        (lambda s, x: s.b(x.transpose(1, 2)), "turn them back"),
        (lambda s, x: s.b(x.transpose(1, 2).flatten(1)), "turn them back"),
        (lambda s, x: s.b(x.transpose(1, 2).amax(1)), "maximum over points: dim 1"),
        (lambda s, x: s.b(x.amax(-1)), "maximum over points: dim 1"),
        (lambda s, x: s.b(x.max()), "maximum over points: dim 1"),
        (lambda s, x: s.b(torch.max(x, s.a(x))), "maximum over points: dim 1"),
        (lambda s, x: s.b(x.max(1)[1]), "got another value"),
        (lambda s, x: s.b(x.amax(1, keepdim=True)), "keepdim=False"),
        (lambda s, x: s.b(x.transpose(1, 2).amax(2, keepdim=True)), "flatten it"),
        (lambda s, x: s.b(x.squeeze()), r"squeeze\(2\) after"),
        (lambda s, x: s.b(F.relu(x, nonsense=1)), "unexpected keyword"),
        (lambda s, x: s.b(x.relu(nonsense=1)), "unexpected keyword"),
        (lambda s, x: s.b(x.view(x.shape[20], -1)), "index out of range"),
        (lambda s, x: s.b(x.view()), "model, Foreign"),
        (lambda s, x: s.b(x) if x.sum() > 0 else x, "can't be traced"),
        (lambda s, x: s.b(x.view(len(x), -1)), "can't be traced"),
        (lambda s, x: s.b(x * float(x.mean())), "can't be traced"),
        (lambda s, x: s.b(x).missing_method(3), "no integer form of missing_method"),
        (lambda s, x: s.undefined(x), "can't be traced.*undefined"),
    ],
)
def test_what_a_forward_may_not_do_is_named_with_its_line(body, words):
    line = f"{inspect.getsourcefile(body)}:{body.__code__.co_firstlineno}"
    with pytest.raises(ValueError, match=f"(?s){words}") as raised:
        from_float(Foreign(body))
    assert f" at {line}: " in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        lambda s, x: {"logits": s.b(x)},
        lambda s, x: (s.b(x), x),
        lambda s, x: s.a.weight,
        lambda s, x: (s.a(x), s.b(x))[0],
        lambda s, x: s.b(x).transpose(1, 2),
    ],
)
def test_a_forward_that_gives_other_than_the_logits_is_refused(body):
    with pytest.raises(ValueError, match="expected the logits|turned"):
        from_float(Foreign(body))


def test_a_forward_that_needs_more_than_a_tensor_is_refused():
    class Two(nn.Module):
        def forward(self, x, mask):
            return x

    with pytest.raises(ValueError, match="can't be traced.*missing 1 required.*mask.*one tensor"):
        from_float(Two())
    with pytest.raises(ValueError, match="expected an nn.Module to convert, got function"):
        from_float(lambda x: x)


def test_tied_weights_are_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match="model.2, .*parameters, each used once"):
        from_float(model)


@pytest.mark.parametrize("headroom", [-1, 127, 1.5, True])
def test_a_headroom_that_leaves_no_weights_is_named(headroom):
    with pytest.raises(ValueError, match=r"headroom to be an integer from 0 to 126, got"):
        from_float(nn.Sequential(nn.Linear(2, 2)), headroom=headroom)


def test_a_layer_whose_output_could_overflow_is_an_error_that_says_what_to_do():
    with pytest.raises(
        SumTooLong, match="at most 99858 .*with a bias.* got 99859; lower the layer"
    ):
        from_float(nn.Sequential(nn.Linear(99_859, 2)))
    with pytest.raises(SumTooLong, match="width or leave out its bias$"):
        from_float(nn.Sequential(nn.Linear(LONGEST_SUM, 2)))
    with pytest.raises(
        SumTooLong, match="at most 133144 products a sum, .* lower the layer's width$"
    ):
        from_float(nn.Sequential(nn.Linear(LONGEST_SUM + 1, 2, bias=False)))


def test_a_model_must_end_in_logits():
    with pytest.raises(ValueError, match="ends in a linear layer"):
        from_float(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    with pytest.raises(ValueError, match="no integer form of log_softmax"):
        from_float(Foreign(lambda s, x: F.log_softmax(s.a(x), 1)))


def test_nodes_in_no_order_or_whose_value_is_lost_are_refused_by_the_network():
    w = Int8Tensor(torch.ones(2, 2, dtype=torch.int8), 0)
    nodes = [Node(Linear(w, None), (INPUT,), "a"), Node(Linear(w, None), (INPUT,), "b")]
    with pytest.raises(ValueError, match="value to be taken by another, got a, whose"):
        Network(nodes)
    for wrong in (("c",), ("a", INPUT), ()):
        with pytest.raises(ValueError, match="expected 1 of a, input before b, got"):
            Network([nodes[0], Node(Linear(w, None), wrong, "b")])
    with pytest.raises(ValueError, match="expected 2 of input before sum, got input"):
        Network([Node(Add(), (INPUT,), "sum")])


def test_the_old_name_of_the_network_warns():
    with pytest.warns(DeprecationWarning, match="Sequence is now Network"):
        assert network_file.Sequence is Network
    with pytest.raises(AttributeError, match="nothing"):
        _ = network_file.nothing


# Warnings


def test_dropout_is_left_out_and_a_model_in_training_mode_is_told_so():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.25), nn.Linear(3, 2))
    with pytest.warns(UserWarning, match="^1, dropout of 0.25, is left out.*model.eval()"):
        assert kinds(from_float(model)) == ["Linear", "Linear"]
    assert kinds(from_float(model.eval())) == ["Linear", "Linear"]  # warnings are errors
    nothing = nn.Sequential(nn.Dropout2d(0.0), nn.Identity(), nn.Linear(3, 2))
    assert kinds(from_float(nothing)) == ["Linear"]


def test_a_dead_start_is_told_with_numbers():
    model = nn.Sequential(nn.Linear(100, 50), nn.ReLU(), nn.Linear(50, 10))
    with_weights(model)
    from_float(model)  # warnings are errors
    small = copy.deepcopy(model)
    nn.init.normal_(small[0].weight, std=1e-4, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning) as told:
        from_float(small)
    (words,) = [str(w.message) for w in told]
    e = quantize(small[0].weight).e
    assert words.startswith(
        f"0 can hardly be trained: its 5,000 weights stay within 127 x 2^{e} = "
    )
    assert f"at most {127 * 2.0**e * 10:.2g} times" in words and "xavier_uniform_" in words
    zeros = copy.deepcopy(model)
    nn.init.zeros_(zeros[2].weight)
    with pytest.warns(UserWarning, match="^2 can .* its 500 weights are all 0, .* is 2\\^0;"):
        from_float(zeros)
    bound = copy.deepcopy(model)
    bound[0].weight.data = 0.99 * bound[0].weight.data.sign()
    with pytest.warns(UserWarning, match=r"are at their bound, \+-127, in 100% of all cases"):
        from_float(bound)


@pytest.mark.parametrize("init", ["default", "xavier", "kaiming", "orthogonal", "0.02"])
@pytest.mark.parametrize("shape", [(3, 64), (64, 3), (1024, 512), (2, 1000), (2, 2)])
def test_usual_initial_weights_are_no_dead_start(init, shape):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        m = nn.Linear(*shape)
        if init == "xavier":
            nn.init.xavier_uniform_(m.weight)
        elif init == "kaiming":
            nn.init.kaiming_normal_(m.weight)
        elif init == "orthogonal":
            nn.init.orthogonal_(m.weight)
        elif init == "0.02" and shape[0] >= 64:
            nn.init.normal_(m.weight, std=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        from_float(m, headroom=15)


# Exponents belong to the state


def two(room=3):
    """Networks of the same form, with other weights and exponents."""
    a, b = (from_float(with_weights(lenet5.build("lenet5"), seed)) for seed in (1, 2))
    for layer in a.weighted():
        layer.make_room(room)
    return a, b, quantize(torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(1)))


def test_a_network_s_state_has_its_exponents_and_gives_the_same_outputs_elsewhere(tmp_path):
    a, b, x = two()
    checkpoint.save(tmp_path / "c", {"model": a.state_dict()})
    b.load_state_dict(checkpoint.load(tmp_path / "c")["model"])
    assert same(a, b) and b(x).e == a(x).e and torch.equal(a(x).m, b(x).m)
    assert b.layers[0].weight_exponent == a.layers[0].weight_exponent
    assert type(b.layers[0].bias_exponent) is int
    names = [f"layers.{i}.{n}" for i in (0, 3, 7, 9, 11) for n in ("weight", "bias")]
    assert [n for n in a.state_dict() if not n.endswith("_exponent")] == names
    assert len(a.state_dict()) == 2 * len(names)


def test_a_network_inside_a_module_and_a_layer_alone_keep_them_too():
    a, b, x = two()
    nn.ModuleDict({"net": b}).load_state_dict(nn.ModuleDict({"net": a}).state_dict())
    assert torch.equal(a(x).m, b(x).m) and a(x).e == b(x).e
    a, b, x = two()
    for mine, theirs in zip(b.weighted(), a.weighted(), strict=True):
        mine.load_state_dict(theirs.state_dict())
    assert torch.equal(a(x).m, b(x).m) and a(x).e == b(x).e
    without_bias = from_float(nn.Linear(3, 2, bias=False))
    assert list(without_bias.state_dict()) == ["layers.0.weight", "layers.0.weight_exponent"]
    without_bias.load_state_dict(without_bias.state_dict())
    assert copy.deepcopy(a).layers[0].weight_exponent == a.layers[0].weight_exponent


def old(net):
    """The state dict as it was before it had exponents."""
    return {name: t for name, t in net.state_dict().items() if not name.endswith("_exponent")}


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_dict_without_exponents_is_refused_before_anything_is_loaded(strict):
    a, b, _ = two()
    before = copy.deepcopy(b)
    with pytest.raises(ValueError, match=r"without layers.0.weight_exponent; .*with_exponents"):
        b.load_state_dict(old(a), strict=strict)
    assert same(b, before)


def test_old_state_dicts_get_the_exponents_of_a_network_built_alike():
    a, _, x = two()
    alike = two()[0]
    for p in alike.parameters():
        p.zero_()
    alike.load_state_dict(checkpoint.with_exponents(old(a), alike))
    assert same(a, alike)
    state = a.state_dict()
    assert checkpoint.with_exponents(state, two()[1]) is state
    floats = nn.Linear(2, 2)
    assert checkpoint.with_exponents(floats.state_dict(), floats).keys() == {"weight", "bias"}


def test_a_digest_is_of_the_weights_alone_and_of_a_float_s_everything():
    a, _, _ = two()
    assert checkpoint.digest(a.state_dict()) == checkpoint.digest(old(a))
    float_exponent = {"w": torch.ones(1), "w_exponent": torch.ones(1)}
    assert checkpoint.digest(float_exponent) != checkpoint.digest({"w": torch.ones(1)})
