"""Node perturbation: against an oracle, in the mean, from outside, and what it costs."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from bench.isolate import measure_alone
from bench.workload import Workload
from ezo import ElasticZO, Nodes
from ezo.models.pointnet import PointNet
from ezo.nodes import STREAM
from ezo.noise import draw
from tests.oracles import nodes as oracle

SIGMA, LR = 0.05, 0.3


def perceptron(*sizes, dtype=torch.float64):
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential()
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        model += nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU())
    model = model[:-1].to(dtype)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) / p.shape[-1] ** 0.5)
    return model


def batch(n, *shape, classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    return torch.randn(n, *shape, generator=generator).to(dtype) + 0.5, torch.arange(n) % classes


def closure(model, x, y):
    return lambda: cross_entropy(model(x), y, reduction="none")


def noise(layer, n, units, *, seed=0, step=0, query=0):
    drawn = draw("gaussian", seed, step, 2 * layer, STREAM + query, 0, -(-n * units // 256))
    return drawn[: n * units].view(n, units).double()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("clip", [0.4, 100.0])
def test_step_is_the_oracles(clip, dtype):
    model = perceptron(4, 5, 6, 3, dtype=dtype)
    x, y = batch(7, 4, dtype=dtype)
    layers = [(m.weight.tolist(), m.bias.tolist()) for m in model[::2]]
    drawn = [noise(t, 7, m.out_features).tolist() for t, m in enumerate(model[::2])]
    noises = [[drawn[t][i] for t in range(3)] for i in range(7)]
    ElasticZO(model, 0, nodes=Nodes(LR, SIGMA, clip)).step(closure(model, x, y))
    for m, (weight, bias) in zip(
        model[::2],
        oracle.step(layers, x.tolist(), y.tolist(), noises, LR, SIGMA, clip),
        strict=True,
    ):
        torch.testing.assert_close(m.weight, torch.tensor(weight, dtype=dtype))
        torch.testing.assert_close(m.bias, torch.tensor(bias, dtype=dtype))


def mean_update(model, nodes, x, y, steps):
    """Of each parameter, of steps from one point, in units of the learning rate."""
    start = copy.deepcopy(model.state_dict())
    optimizer = ElasticZO(model, 0, nodes=nodes)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for _ in range(steps):
        optimizer.step(closure(model, x, y))
        for name, p in model.named_parameters():
            total[name] += (start[name] - p.detach()) / nodes.lr / steps
        model.load_state_dict(start)
    return total


def expect_gradient(model, name, x, total, sine):
    """That a layer's update D is grad_W - grad_b xbar', and its bias's grad_b - D xbar."""
    layer = model.get_submodule(name)
    wanted = layer.weight.grad - layer.bias.grad[:, None] * x.mean(0)
    found = total[f"{name}.weight"]
    for of, at in ((found, wanted), (total[f"{name}.bias"], layer.bias.grad - wanted @ x.mean(0))):
        cosine = (of * at).sum() / of.norm() / at.norm()
        assert 1 - cosine * abs(cosine) < sine, (name, cosine)
        assert of.norm().item() == pytest.approx(at.norm().item(), rel=0.15)


def test_mean_over_many_draws_is_the_gradient_of_every_layer():
    model = perceptron(4, 6, 5, 3)
    x, y = batch(12, 4)
    total = mean_update(model, Nodes(1.0, 1e-3, clip=None), x, y, 3000)
    cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for name in "024":
            expect_gradient(model, name, model[: int(name)](x), total, 0.03)


def test_mean_through_the_maximum_is_the_gradient():
    class Cloud(nn.Module):
        BEFORE_MAXIMUM = ("points",)

        def __init__(self):
            super().__init__()
            self.points = nn.Conv1d(3, 4, 1, bias=False)
            self.head = nn.Linear(4, 3)

        def forward(self, x):
            return self.head(self.points(x.mT).amax(2).relu())

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Cloud().double()
    x, y = batch(6, 9, 3)
    total = mean_update(model, Nodes(1.0, 1e-4, clip=None), x, y, 3000)
    cross_entropy(model(x), y).backward()
    found, wanted = total["points.weight"], model.points.weight.grad
    cosine = (found * wanted).sum() / found.norm() / wanted.norm()
    assert 1 - cosine * abs(cosine) < 0.03
    assert found.norm().item() == pytest.approx(wanted.norm().item(), rel=0.1)


class Seen:
    """The noise that passes meet, from outside: outputs of a layer, at both sides."""

    def __init__(self, n=300, **arguments):
        self.model = nn.Sequential(nn.Linear(2, 40), nn.Identity(), nn.Linear(40, 40)).double()
        self.x = torch.zeros(n, 2, dtype=torch.float64)
        self.outputs = []
        self.model[1].register_forward_pre_hook(lambda m, x: self.outputs.append(x[0].clone()))
        self.optimizer = ElasticZO(self.model, 0, nodes=Nodes(0.0, SIGMA), **arguments)

    def step(self):
        self.outputs = []
        self.optimizer.step(lambda: self.model(self.x).sum(1))
        plus, minus = self.outputs[:2]
        torch.testing.assert_close((plus + minus) / 2, self.model[0](self.x))
        return (plus - minus) / (2 * SIGMA)


def test_noise_is_of_the_stream_and_independent_between_examples_layers_steps_and_seeds():
    seen = Seen()
    first, second = seen.step(), seen.step()
    torch.testing.assert_close(first, noise(0, 300, 40))
    torch.testing.assert_close(second, noise(0, 300, 40, step=1))
    others = [noise(1, 300, 40), Seen(seed=1).step(), noise(0, 300, 40, query=1)]
    rows = torch.cat([first, second, *others])  # an example's noise each
    rows = rows / rows.norm(dim=1, keepdim=True)
    cosines = rows @ rows.T - torch.eye(len(rows), dtype=torch.float64)
    assert cosines.abs().max() < 6 / 40**0.5
    assert abs(cosines.mean()) < 1e-3
    columns = first / first.norm(dim=0)
    assert (columns.T @ columns - torch.eye(40)).abs().max() < 6 / 300**0.5


def test_weights_and_nodes_draw_apart():
    assert STREAM > 2**20  # queries' streams of the weights begin at 0
    assert not torch.equal(
        draw("gaussian", 0, 0, 0, 0, 0, 1), draw("gaussian", 0, 0, 0, STREAM, 0, 1)
    )


def test_nothing_moves_in_a_pass_and_no_difference_is_no_update():
    model = perceptron(4, 5, 3, dtype=torch.float32)
    x, y = batch(6, 4, dtype=torch.float32)
    start, seen = copy.deepcopy(model.state_dict()), []

    def losses():
        seen.append(copy.deepcopy(model.state_dict()))
        return closure(model, x, y)() * 0

    optimizer = ElasticZO(model, 0, nodes=True)
    for _ in range(3):
        optimizer.step(losses)
    for state in [*seen, model.state_dict()]:
        assert all(torch.equal(state[name], p) for name, p in start.items())
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_compiled_model_learns_the_same(dtype):
    weights = []
    for compiled in (False, True):
        model = perceptron(4, 5, 3, dtype=dtype)
        x, y = batch(7, 4, dtype=dtype)
        run = torch.compile(model, backend="eager") if compiled else model
        optimizer = ElasticZO(model, 0, nodes=True)
        for _ in range(3):
            optimizer.step(closure(run, x, y))
        weights.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *weights))


def test_a_forward_of_the_user_s_own_on_a_layer_is_run_and_stays():
    models = [perceptron(4, 5, 3, dtype=torch.float32) for _ in range(2)]
    x, y = batch(7, 4, dtype=torch.float32)
    layer, calls = models[1][0], []

    def own(x):
        calls.append(len(x))
        return nn.Linear.forward(layer, x)

    layer.forward = own
    for model in models:
        ElasticZO(model, 0, nodes=True).step(closure(model, x, y))
    assert layer.forward is own and calls == [7, 7]
    assert all(map(torch.equal, *(list(model.parameters()) for model in models)))


@pytest.mark.parametrize("queries", [1, 3])
def test_micro_batches_make_the_same_update(queries):
    models = [perceptron(4, 90, 3) for _ in range(2)]
    x, y = batch(12, 4)
    for model, sizes in zip(models, ([12], [5, 3, 4]), strict=True):

        def losses(model=model, sizes=sizes):
            for part, labels in zip(x.split(sizes), y.split(sizes), strict=True):
                yield cross_entropy(model(part), labels, reduction="none")

        nodes = Nodes(LR, weight_decay=0.1)
        optimizer = ElasticZO(model, 0, nodes=nodes, queries=queries)
        for _ in range(3):
            optimizer.step(losses)
    for one, other in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other)


def test_queries_are_averaged_and_decay_is_applied_once():
    def after(**arguments):
        model = perceptron(4, 3)
        start = model[0].weight.detach().clone()
        nodes = Nodes(1e-3, weight_decay=arguments.pop("decay", 0.0))
        ElasticZO(model, 0, nodes=nodes, **arguments).step(closure(model, *batch(6, 4)))
        return start, model[0].weight.detach() - start

    start, plain = after(queries=2)
    torch.testing.assert_close(after(queries=2, decay=0.5)[1], plain - 5e-4 * start)


def test_tokens_have_noise_of_their_own_each():
    model = perceptron(4, 3)
    start = model[0].weight.detach().clone()
    x, y = batch(5, 7, 4)
    nodes = Nodes(LR, SIGMA, clip=None)
    optimizer = ElasticZO(model, 0, nodes=nodes)
    optimizer.step(lambda: cross_entropy(model(x).mean(1), y, reduction="none"))
    z, d = noise(0, 5 * 7, 3), optimizer.applied[0][1].differences
    e = (z.view(5, 7, 3) * (d / SIGMA)[:, None, None]).flatten(0, 1) / 5
    rows = x.flatten(0, 1)
    torch.testing.assert_close(start - model[0].weight, LR * e.T @ (rows - rows.mean(0)))


def test_state_dict_goes_on_to_the_same_bits():
    models = [perceptron(4, 5, 3) for _ in range(2)]
    x, y = batch(6, 4)
    first, other = (ElasticZO(m, 1, nodes=Nodes(LR * (m is models[0]))) for m in models)
    first.step(closure(models[0], x, y))
    models[1].load_state_dict(models[0].state_dict())
    other.load_state_dict(copy.deepcopy(first.state_dict()))
    for optimizer, model in zip((first, other), models, strict=True):
        optimizer.step(closure(model, x, y))
    for one, same in zip(*(model.parameters() for model in models), strict=True):
        assert torch.equal(one, same)


def test_groups_have_rates_of_their_own_for_a_scheduler():
    model = perceptron(4, 5, 6, 3)
    nodes = [Nodes(1e-3, layers=["0"]), Nodes(2e-3, sigma=0.2, layers=[model[2]])]
    optimizer = ElasticZO(model, 1, nodes=nodes)
    groups = [g for g in optimizer.param_groups if "sigma" in g]
    assert [(g["lr"], g["sigma"], len(g["params"])) for g in groups] == [
        (1e-3, 0.1, 2),
        (2e-3, 0.2, 2),
    ]
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
    optimizer.step(closure(model, *batch(6, 4)))
    scheduler.step()
    assert [g["lr"] for g in groups] == [5e-4, 1e-3]


def test_other_zo_parameters_are_perturbed_in_the_same_step():
    model = nn.Sequential(nn.Conv1d(3, 4, 3), nn.Flatten(), nn.Linear(8, 3))
    plain = copy.deepcopy(model)
    x, y = torch.randn(6, 3, 4), torch.arange(6) % 3
    optimizer = ElasticZO(model, 0, nodes=True)
    optimizer.step(closure(model, x, y))
    assert len(optimizer.param_groups) == 2
    assert all((p != q).any() for p, q in zip(model.parameters(), plain.parameters(), strict=True))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.other = nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.layer(self.layer(x))


class Writes(Twice):
    def forward(self, x):
        h = x.clone()
        h += self.layer(h)
        return self.other(h)


@pytest.mark.parametrize(
    ("losses", "says"),
    [
        (lambda m: m[0](torch.ones(4, 3)).mean(), "each example's losses, .N,., from the closure"),
        (lambda m: m[0](torch.ones(4, 3)).mean(1)[:2], "for the 2 examples of the loss, got 4"),
        (lambda m: m[0](torch.ones(3)), "with the examples first, got shape .3,"),
        (lambda m: torch.ones(3), "every pass to call '0', which has nodes, got none"),
        (lambda m: Twice.forward(m, torch.ones(3, 3)).sum(1), "'layer', which has nodes, once"),
        (lambda m: m(torch.ones(3, 3)).sum(1), "written to in place"),
    ],
)
def test_losses_and_layers_that_nodes_cant_learn_from(losses, says):
    model = nn.Sequential(nn.Linear(3, 3)) if "'layer'" not in says else Twice()
    model = Writes() if "in place" in says else model
    start = copy.deepcopy(model.state_dict())
    optimizer = ElasticZO(model, 0, nodes=True)
    with pytest.raises(ValueError, match=says):
        optimizer.step(lambda: losses(model))
    assert all(torch.equal(p, start[name]) for name, p in model.state_dict().items())
    assert not any("forward" in vars(m) for m in model.modules())


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        (Nodes(sigma=0.0), "sigma to be a finite number above 0, got 0.0"),
        (Nodes(lr=-1.0), "lr to be a finite number of 0 or more"),
        (Nodes(layers=["1"]), "that can have them, 0, got '1', neither linear nor pointwise"),
        (Nodes(layers=["2"]), "got '2', no part of what ZO trains"),
        (Nodes(layers=["nonsense"]), "got 'nonsense', none of the model's"),
        ([Nodes(layers=["0"]), Nodes()], "each layer in one of the nodes, got 0, 0"),
        ([1e-3], "True, False or Nodes, got 0.001"),
    ],
)
def test_nodes_that_cant_be(nodes, says):
    with pytest.raises(ValueError, match=says):
        ElasticZO(perceptron(4, 5, 3), 1, nodes=nodes)


def test_layers_with_a_shared_weight_keep_weight_perturbation():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    model[1].weight = model[0].weight
    optimizer = ElasticZO(model, 0, nodes=True)
    assert [len(g["params"]) for g in optimizer.param_groups] == [3, 2]


def test_replay_is_refused():
    model = perceptron(4, 5, 3)
    optimizer = ElasticZO(model, 0, nodes=True)
    optimizer.step(closure(model, *batch(6, 4)))
    with pytest.raises(ValueError, match="weights alone with a replay"):
        optimizer.replay(optimizer.applied)


def test_pointnet_has_nodes_before_its_maximum_unless_norms_stand_between():
    for batch_norm, expected in ((False, ["points.8"]), (True, [])):
        optimizer = ElasticZO(PointNet(4, 3, batch_norm), 0, nodes=True)
        (layers,) = optimizer._layers
        assert [layer.name for layer in layers if layer.maximum] == expected
        assert len(layers) == 3 + len(expected)


@pytest.mark.parametrize(("model", "n"), [("lenet5", 32), ("pointnet", 8)])
def test_peak_is_at_most_two_percent_above_inference(model, n):
    def peak(method):
        rows = measure_alone("memory", Workload(model, method, n))
        return {row.metric: row.value for row in rows}

    inference, ours = peak("inference"), peak("full-zo-node")
    assert ours["peak_tensor_bytes"] <= 1.02 * inference["peak_tensor_bytes"]
    assert ours["analytic_bytes"] == pytest.approx(ours["peak_tensor_bytes"], rel=0.02)
