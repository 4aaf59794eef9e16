"""One contract for the optimisers of both arithmetics."""

import contextlib
import copy
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import ezo
from ezo import int8, phases, step
from ezo.step import BP_GRADIENTS, Visit

F = nn.functional
Y = torch.arange(16) % 4
POINTS = {"mean": None, "plus": 1, "minus": -1, "last": -1, "unperturbed": 0}


def float_model() -> nn.Module:
    model = nn.Sequential(
        nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4)
    )
    with torch.no_grad():  # on the grid, so that undoing gives every bit back
        for i, p in enumerate(model.parameters()):
            values = torch.sin(torch.arange(p.numel()) * 1.7 + i).view(p.shape)
            p.copy_((values * 2**12).round() / 2**13)
    return model


def inputs(step: int = 0) -> torch.Tensor:
    return torch.cos(torch.arange(16 * 12) * (0.9 + 0.1 * step)).view(16, 12)


@dataclass(frozen=True)
class Kind:
    """An optimiser and what it takes."""

    name: str
    optimizer: Any
    eps: float

    def make(self, bp: Any = 1, model: Any = None, **how: Any) -> tuple[Any, Any]:
        if self.name == "float":
            model = model or float_model()
            defaults: dict[str, Any] = {"lr": 1e-2, "eps": self.eps}
        else:
            model = model or int8.from_float(float_model(), headroom=15)
            defaults = {"rate": 30_000}
        return model, self.optimizer(model, bp, **{**defaults, **how})

    def loss(self, model: Any, step: int = 0) -> Any:
        if self.name == "float":
            return F.cross_entropy(model(inputs(step)), Y)
        return int8.Loss(model(int8.quantize(inputs(step))), Y)

    def train(self, model: Any, optimizer: Any, steps: int = 1, first: int = 0) -> list[float]:
        found = []
        for k in range(first, first + steps):
            loss = optimizer.step(lambda k=k: self.loss(model, k))
            found.append(float(loss) if self.name == "float" else loss.mean())
        return found


FLOAT, INTEGER = Kind("float", ezo.ElasticZO, 1e-2), Kind("int8", int8.ElasticZO, 1.0)
both = pytest.mark.parametrize("kind", [FLOAT, INTEGER], ids=lambda kind: kind.name)


def weights(model: Any) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(map(torch.equal, a, b))


# The course of a step


@pytest.mark.parametrize("points", [(1, -1), (1, 0), (-1, 0)])
@pytest.mark.parametrize("queries", [1, 3])
@pytest.mark.parametrize("where", [*BP_GRADIENTS, None])
def test_a_course_visits_every_point_once_and_takes_the_gradient_last(
    points: tuple[int, ...], queries: int, where: str | None
) -> None:
    if POINTS.get(where or "") in (1, -1) and POINTS[where or ""] not in points:
        return
    course = step.course(points, queries, where).visits
    around = [(v.query, v.point) for v in course if v.point]
    assert sorted(around) == sorted((q, p) for q in range(queries) for p in points if p)
    assert [q for q, _ in around] == sorted(q for q, _ in around)
    theta = [i for i, v in enumerate(course) if v.point == 0]
    assert len(theta) == (0 in points or where == "unperturbed")
    taken = [v for v in course if v.bp]
    if where == "mean":
        assert taken == list(course)
    else:
        assert taken == ([course[-1]] if where else [])
    if where in ("plus", "minus", "unperturbed"):
        assert taken[0].point == POINTS[where]
    if where not in ("unperturbed",):
        assert theta in ([], [0])


def test_without_queries_there_is_one_pass_at_theta() -> None:
    assert step.course((1, -1), 0, "minus") == ((Visit(0, 0, True),), 1)


@both
@pytest.mark.parametrize("where", POINTS)
@pytest.mark.parametrize("queries", [1, 2])
def test_the_bp_gradient_is_taken_where_it_says(kind: Kind, where: str, queries: int) -> None:
    """Seen from outside: where the weights stand at each pass, and where activations are kept."""
    model, optimizer = kind.make(bp=1, queries=queries, bp_gradient=where)
    theta, seen = weights(model)[0], []

    def closure() -> Any:
        at = (model.parameters().__next__().detach() - theta).flatten().clone()
        keeping = torch.is_grad_enabled() if kind is FLOAT else model.layers[-1].keeping
        seen.append((at, keeping))
        return kind.loss(model)

    optimizer.step(closure)
    assert len(seen) == 2 * queries + (where == "unperturbed")
    for i, (at, keeping) in enumerate(seen):
        assert keeping == (where == "mean" or i == len(seen) - 1)
        assert bool(at.any()) == (where != "unperturbed" or i < len(seen) - 1)
    pair = seen[2 * queries - 2 : 2 * queries]
    assert torch.equal(pair[0][0], -pair[1][0])
    first = pair[0][0] * (-1 if where == "plus" else 1)  # of the last query: z, up to its scale
    z_model, z = kind.make(bp=1, queries=queries)
    z._perturbations()[0].move(queries - 1, 0, 1)
    moved = (next(z_model.parameters()).detach() - theta).flatten()
    assert torch.equal(first, moved)


@both
def test_without_a_zo_layer_a_step_is_one_pass_at_theta(kind: Kind) -> None:
    model, optimizer = kind.make(bp="all", bp_gradient="minus", queries=3)
    calls: list[int] = []
    optimizer.step(lambda: (calls.append(1), kind.loss(model))[1])
    assert len(calls) == 1 and optimizer.applied == []


@pytest.mark.parametrize(("of", "within"), [(int8.Loss, 0), (int8.FloatLoss, 16)])
def test_an_integer_loss_tells_each_example_s(of: Any, within: int) -> None:
    model = int8.from_float(float_model())
    loss = of(model(int8.quantize(inputs())), Y)
    each = [int8.Loss(int8.Int8Tensor(row[None], loss.logits.e), y[None]).total()
            for row, y in zip(loss.logits.m, Y, strict=True)]  # fmt: skip
    found = loss.per_example()
    assert found.dtype == torch.int64 and abs(int(found.sum()) - loss.total()) <= within
    assert all(abs(a - b) <= within for a, b in zip(found.tolist(), each, strict=True))


# Exceptions, replay


@both
@pytest.mark.parametrize("where", ["mean", "plus", "unperturbed"])
@pytest.mark.parametrize("at", range(5))
def test_an_exception_in_the_closure_leaves_everything(kind: Kind, where: str, at: int) -> None:
    model, optimizer = kind.make(queries=2, bp_gradient=where)
    state, before, calls = copy.deepcopy(optimizer.state_dict()), weights(model), []

    def closure() -> Any:
        calls.append(1)
        if len(calls) == at + 1:
            raise KeyboardInterrupt
        return kind.loss(model)

    raises = at < 4 + (where == "unperturbed")
    with pytest.raises(KeyboardInterrupt) if raises else contextlib.nullcontext():
        optimizer.step(closure)
    if raises:
        assert same(before, weights(model))
        assert str(optimizer.state_dict()) == str(state)
        other, undisturbed = kind.make(queries=2, bp_gradient=where)
        kind.train(model, optimizer)
        kind.train(other, undisturbed)
        assert same(weights(model), weights(other))


@both
@pytest.mark.parametrize(
    "how",
    [
        {},
        {"queries": 3},
        {"queries": 3, "bp_gradient": "plus"},
        {"queries": 2, "bp_gradient": "unperturbed"},
        {"weight_decay": 0.3, "queries": 2},
        {"magnitude": "absolute", "fraction": True, "queries": 2, "rate": 500_000},
    ],
)
def test_recorded_updates_replay_to_the_same_bits(kind: Kind, how: dict[str, Any]) -> None:
    if ("magnitude" in how and kind is FLOAT) or ("weight_decay" in how and kind is INTEGER):
        return
    model, optimizer = kind.make(bp=1, **how)
    other, again = kind.make(bp=1, **how)
    journal, zo = [], 4
    for k in range(3):
        kind.train(model, optimizer, first=k)
        journal += optimizer.applied
    again.replay(journal)
    assert len(journal) == 3 * how.get("queries", 1)
    assert same(weights(model)[:zo], weights(other)[:zo])
    assert not same(weights(model)[:zo], weights(kind.make()[0])[:zo])
    with torch.no_grad():
        for p, q in zip(list(model.parameters())[zo:], list(other.parameters())[zo:], strict=True):
            q.copy_(p)
    for m, o in ((model, optimizer), (other, again)):
        o.param_groups[1]["lr" if kind is FLOAT else "mu"] = 0.0 if kind is FLOAT else -20
        kind.train(m, o, first=3)  # goes on after the last that was recorded
    assert same(weights(model)[:zo], weights(other)[:zo])


@both
def test_another_arithmetics_updates_are_refused(kind: Kind) -> None:
    other = INTEGER if kind is FLOAT else FLOAT
    model, optimizer = other.make()
    other.train(model, optimizer)
    theirs, ours = kind.make()
    before = weights(theirs)
    with pytest.raises(ValueError, match=f"expected updates of {ours.KIND}, got some of ezo"):
        ours.replay(optimizer.applied)
    assert same(before, weights(theirs))


# States


@both
@pytest.mark.parametrize("bp", [0, 1, "all"])
def test_a_state_goes_on_to_the_same_bits(kind: Kind, bp: Any) -> None:
    how = {"bp": bp, "queries": 2, "bp_gradient": "last"}
    model, optimizer = kind.make(**how)
    kind.train(model, optimizer, 2)
    copied = copy.deepcopy(model)
    _, again = kind.make(model=copied, seed=77, **how)
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    kind.train(model, optimizer, 3, first=2)
    kind.train(copied, again, 3, first=2)
    assert same(weights(model), weights(copied))


def untouched(optimizer: Any, state: dict[str, Any], words: str) -> None:
    before = str(optimizer.state_dict())
    with pytest.raises(ValueError, match=words):
        optimizer.load_state_dict(state)
    assert str(optimizer.state_dict()) == before


@both
@pytest.mark.parametrize("old", [False, True])
def test_a_state_of_the_other_kind_is_refused_with_nothing_loaded(kind: Kind, old: bool) -> None:
    other = INTEGER if kind is FLOAT else FLOAT
    model, theirs = other.make(seed=5)
    other.train(model, theirs)
    state = theirs.state_dict()
    if old:
        state["ezo"] = as_before(other, state["ezo"])
    _, ours = kind.make()
    untouched(ours, state, f"expected a state dict of {ours.KIND}, got {theirs.KIND}; load it")
    sgd = torch.optim.SGD(float_model().parameters(), lr=0.1).state_dict()
    untouched(ours, sgd, "got one with the keys state, param_groups")


def as_before(kind: Kind, ours: dict[str, Any]) -> dict[str, Any]:
    """What stood in a state before there were kinds."""
    kept = {"seed": ours["seed"], "steps": ours["steps"]}
    return {**kept, "bp": ours["bp"]} if kind is FLOAT else {**kept, "mean": 12345}


@both
def test_a_state_from_before_there_were_kinds_goes_on(kind: Kind) -> None:
    model, optimizer = kind.make()
    kind.train(model, optimizer, 2)
    copied, state = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
    state["ezo"] = as_before(kind, state["ezo"])
    _, again = kind.make(model=copied)
    again.load_state_dict(state)
    kind.train(model, optimizer, 2, first=2)
    kind.train(copied, again, 2, first=2)
    assert same(weights(model), weights(copied))


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("both", {"queries": 2}),
    ("both", {"bp_gradient": "unperturbed"}),
    ("float", {"noise": "rademacher"}),
    ("float", {"bp_optimizer": torch.optim.Adam}),
    ("int8", {"noise": int8.SparseNoise(7, 0.5)}),
    ("int8", {"magnitude": "absolute"}),
    ("int8", {"largest_difference": 5}),
    ("int8", {"fraction": True}),
]


@both
@pytest.mark.parametrize(("of", "how"), OTHERS)
def test_a_state_of_other_settings_is_refused(kind: Kind, of: str, how: dict[str, Any]) -> None:
    if of not in ("both", kind.name):
        return
    (name,) = how
    _, theirs = kind.make(seed=5, **how)
    _, ours = kind.make()
    untouched(ours, theirs.state_dict(), f"state dict of {name}=.*, got one of {name}=.*; make")
    untouched(theirs, ours.state_dict(), f"state dict of {name}=.*, got one of {name}=.*; make")


@both
def test_a_state_of_another_split_is_refused(kind: Kind) -> None:
    _, theirs = kind.make(bp=2, seed=5)
    _, ours = kind.make(bp=1)
    untouched(ours, theirs.state_dict(), "groups ZO of 4, BP of 2, got ZO of 2, BP of 4; give the")


def test_groups_come_back_in_their_order() -> None:
    def grouped() -> tuple[Any, Any]:
        model = float_model()
        extra = nn.Parameter(torch.ones(3))
        _, optimizer = FLOAT.make(model=model, lr=1e-3)
        optimizer.add_param_group({"params": [extra], "lr": 1e-5})
        return model, optimizer

    model, optimizer = grouped()
    FLOAT.train(model, optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    _, again = grouped()
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == rates == [1e-3, 0.01, 1e-5]
    assert again.param_groups[1] is again.bp_optimizer.param_groups[0]


# Arguments


@both
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"queries": 0}, "queries to be an integer .*, got 0"),
        ({"queries": True}, "queries to be an integer .*, got True"),
        ({"queries": 1.5}, "queries to be an integer .*, got 1.5"),
        ({"seed": -1}, r"seed to be an integer in \[0, 2\^64\), got -1"),
        ({"seed": 1 << 64}, "seed to be an integer"),
        ({"bp_gradient": "both"}, "one of mean, plus, minus, last, unperturbed, got 'both'"),
        ({"estimator": "no"}, "unknown estimator 'no'; known: central"),
        ({"bp": 4}, "got 4"),
    ],
)
def test_arguments_out_of_range_are_named(kind: Kind, how: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        kind.make(**how)


@both
def test_a_missing_closure_and_a_copy_are_refused(kind: Kind) -> None:
    _, optimizer = kind.make()
    with pytest.raises(ValueError, match="closure that returns the loss, got None; call step"):
        optimizer.step()
    with pytest.raises(TypeError, match="got the ElasticZO itself; copy the model"):
        copy.deepcopy(optimizer)


# Ranges, hooks


@both
@pytest.mark.parametrize(
    ("where", "bp", "wanted"),
    [
        ("plus", 1, "perturb forward perturb forward backward update update"),
        ("mean", 1, "perturb forward backward perturb forward backward update update"),
        ("mean", 0, "perturb forward perturb forward update"),
        ("mean", "all", "forward backward update"),
        (
            "unperturbed",
            1,
            "perturb forward perturb forward perturb forward backward update update",
        ),
    ],
)
def test_a_step_emits_its_ranges(kind: Kind, where: str, bp: Any, wanted: str) -> None:
    model, optimizer = kind.make(bp=bp, bp_gradient=where)
    seen: list[str] = []
    inside: list[str] = []

    @contextlib.contextmanager
    def listener(name: str) -> Any:
        assert not inside
        inside.append(name)
        seen.append(name)
        yield
        inside.pop()

    with phases.listening(listener):
        kind.train(model, optimizer)
    assert seen == wanted.split()


@both
def test_a_hook_is_told_of_each_step_once(kind: Kind) -> None:
    model, optimizer = kind.make()
    calls: list[str] = []
    handle = optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    kind.train(model, optimizer, 2)
    handle.remove()
    kind.train(model, optimizer, 1)
    assert calls == ["after", "after"]


# An estimator of one's own

ONE_SIDED = '''
"""One-sided differences: a pass at theta, shared by all queries, and one beside it."""

NAMES = ("one-sided",)
POINTS = (0, 1)


def difference(losses):
    """2 (loss(theta + e) - loss(theta))."""
    return 2 * (losses[1] - losses[0])
'''
USE = """
import dataclasses

import torch
from torch import nn

import ezo
from ezo import conformance, int8, train
from ezo.train import Run
from tests.test_optimizers import FLOAT, INTEGER

assert ezo.__file__.startswith(ROOT), ezo.__file__
for kind, how in ((FLOAT, {"lr": 2e-2}), (INTEGER, {"magnitude": "absolute", "rate": 2_000_000})):
    for queries, where in ((1, "unperturbed"), (3, "last")):
        of = {"estimator": "one-sided", "queries": queries, "bp_gradient": where, **how}
        model, optimizer = kind.make(bp=1, **of)
        calls = []
        optimizer.step(lambda: (calls.append(1), kind.loss(model))[1])
        assert len(calls) == queries + 1, len(calls)
        model, optimizer = kind.make(bp=0, **of)
        losses = [kind.train(model, optimizer)[0] for _ in range(100)]
        assert sum(losses[-10:]) < 0.9 * sum(losses[:10]), (kind.name, queries, losses[::10])
    try:
        kind.make(estimator="one-sided", bp_gradient="minus")
        raise AssertionError("minus was taken")
    except ValueError as error:
        assert "one of mean, plus, last, unperturbed, got 'minus'" in str(error), error


def make_step(model, lr, eps, seed):
    return ezo.ElasticZO(model, 0, lr=lr, eps=eps / 64, seed=seed, estimator="one-sided").step


for precision in ("fp32", "int8"):
    run = Run("lenet5", "digits", "elastic-1", precision, 1, 32, train_examples=64)
    other = dataclasses.replace(run, estimator="one-sided")
    assert other.case != run.case and "estimator" not in run.settled().config
    assert other.settled().config["estimator"] == "one-sided"
    rows = list(train.train(other.settled({"bp_gradient": "last"})))
    assert rows[-1].metric == "finished" and rows[-1].config["estimator"] == "one-sided"
    passes = {row.value for row in rows if row.metric == "forward_passes"}
    plain = {row.value for row in train.train(run) if row.metric == "forward_passes"}
    assert passes == plain == {4}, (passes, plain)
    for method, wanted in (("full-bp", "expected a method with a ZO part"),):
        try:
            dataclasses.replace(other, method=method).settled()
            raise AssertionError("an estimator for backpropagation was taken")
        except ValueError as error:
            assert wanted in str(error), error


for check in (conformance.sign, conformance.replay, conformance.drift, conformance.gradient):
    found = check(make_step)
    assert found.passed, str(found)
print("done")
"""


def test_one_file_adds_an_estimator(tmp_path: Path) -> None:
    shutil.copytree(Path(ezo.__file__).parent, tmp_path / "ezo")
    (tmp_path / "tests").mkdir()
    shutil.copy(__file__, tmp_path / "tests")
    kernels = sys.modules.get("ezo._kernels")
    if kernels is not None and kernels.__file__:
        shutil.copy(kernels.__file__, tmp_path / "ezo")
    (tmp_path / "ezo" / "estimators" / "one_sided.py").write_text(ONE_SIDED.lstrip())
    here = "import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in "
    here += "(type(f).__module__ + type(f).__name__).lower()]; "
    here += f"ROOT = {str(tmp_path)!r}; sys.path.insert(0, ROOT)\n"
    done = subprocess.run(
        [sys.executable, "-c", here + USE], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
