"""No floating-point number in an int8 step: not in a tensor, not in any Python expression.

The package is imported a second time with every expression of its source wrapped in a call that
looks at the value, and a dispatch mode looks at what goes into and comes out of torch's operations.
Both look from the moment when a batch lies ready until the step has returned, the schedules and the
closure included. Arithmetic in compiled code is not seen: only what goes in and comes out.
"""

import ast
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOOK = "__look_at__"


class FloatFound(AssertionError):
    """A floating-point number in a step."""


def is_float(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_floating_point() or value.is_complex()
    return isinstance(value, (float, complex))


class Watch(TorchDispatchMode):
    """Refuses floating-point numbers while it is entered; ``seen`` counts what it looked at."""

    def __init__(self) -> None:
        super().__init__()
        self.on = False
        self.seen = {"expression": 0, "operation": 0}

    def __enter__(self) -> "Watch":
        super().__enter__()
        self.on = True
        return self

    def __exit__(self, *error: Any) -> None:
        self.on = False
        super().__exit__(*error)

    def look_at(self, value: Any, where: str) -> Any:
        if self.on:
            self.seen["expression"] += 1
            if is_float(value):
                raise FloatFound(f"{where}: {value!r}")
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen["operation"] += 1
        for value in tree_leaves([args, kwargs, out]):
            if is_float(value):
                raise FloatFound(f"{func}: {value!r}")
        return out


class Wrap(ast.NodeTransformer):
    """``x`` to ``__look_at__(x, "file:line")``, for every expression that is read."""

    def __init__(self, name: str) -> None:
        self.name = name

    def visit(self, node: ast.AST) -> Any:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return node  # docstrings stay docstrings
        if isinstance(node, (ast.pattern, ast.JoinedStr)):
            return node
        self.generic_visit(node)
        reading = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        if not isinstance(node, ast.expr) or isinstance(node, (ast.Slice, ast.Starred)):
            return node
        if not reading:
            return node
        where = ast.Constant(f"{self.name}:{node.lineno}")
        call = ast.Call(ast.Name(HOOK, ast.Load()), [node, where], [])
        return ast.fix_missing_locations(ast.copy_location(call, node))


class Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, watch: Watch, planted: dict[str, str]) -> None:
        super().__init__(name, path)
        self.watch, self.planted = watch, planted

    def get_code(self, fullname: str) -> Any:
        source = Path(self.path).read_text(encoding="utf-8")
        if fullname == self.planted.get("module"):
            assert source.count(self.planted["old"]) == 1
            source = source.replace(self.planted["old"], self.planted["new"])
        return compile(Wrap(fullname).visit(ast.parse(source)), self.path, "exec")

    def exec_module(self, module: ModuleType) -> None:
        vars(module)[HOOK] = self.watch.look_at
        super().exec_module(module)


class Finder(importlib.abc.MetaPathFinder):
    def __init__(self, watch: Watch, planted: dict[str, str]) -> None:
        self.watch, self.planted = watch, planted

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        if name != "ezo" and not name.startswith("ezo."):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            loader = Loader(name, spec.loader.path, self.watch, self.planted)
            again = importlib.util.spec_from_file_location(
                name, spec.origin, loader=loader,
                submodule_search_locations=spec.submodule_search_locations,
            )  # fmt: skip
            return again
        return spec


Watched = Callable[..., tuple[Watch, Any]]


@pytest.fixture
def watched() -> Iterator[Watched]:
    """``watched(**planted)``: the second import's ``ezo.train`` and its watch."""
    ours = {
        name: module
        for name, module in sys.modules.items()
        if (name == "ezo" or name.startswith("ezo.")) and name != "ezo._kernels"
    }
    finders: list[Finder] = []

    def forget() -> None:
        for name in list(sys.modules):
            if (name == "ezo" or name.startswith("ezo.")) and name != "ezo._kernels":
                del sys.modules[name]
        for finder in finders:
            sys.meta_path.remove(finder)
        finders.clear()

    def again(**planted: str) -> tuple[Watch, Any]:
        forget()
        watch = Watch()
        finders.append(Finder(watch, planted))
        sys.meta_path.insert(0, finders[0])
        importlib.import_module("ezo.precisions.int8")
        return watch, importlib.import_module("ezo.train")

    yield again
    forget()
    sys.modules.update(ours)


def steps(train: Any, watch: Watch, method: str, precision: str, **chosen: Any) -> None:
    hyper = importlib.import_module("ezo.precisions.int8").Int8Hyper(**chosen)
    what = {"batch_size": 2, "train_examples": 4, "hyper": hyper}
    run = train.Run("lenet5", "digits", method, precision, **what)
    loop = train._Loop(run.settled(), None, None, torch.device("cpu"), 1)
    for k in range(2):
        x, y = loop.examples.batch(torch.arange(2 * k, 2 * k + 2), torch.Generator())
        with watch:
            loop.take_step.schedule(k, 2)
            loss = loop.take_step(x, y)
        assert isinstance(loss, int)


@pytest.mark.parametrize("backend", ["compiled", "reference"])
def test_no_step_of_int8_has_a_floating_point_number(watched: Watched, backend: str) -> None:
    watch, train = watched()
    kernels = importlib.import_module("ezo.kernels")
    for method in ("full-zo", "elastic-2", "full-bp", "tail-only-1", "full-zo-node"):
        before = dict(watch.seen)
        with kernels.using(backend):
            steps(train, watch, method, "int8", bp_gradient="mean")
        assert watch.seen["expression"] - before["expression"] > 500
        assert watch.seen["operation"] - before["operation"] > 20


def test_the_floating_point_loss_of_int8_star_is_found(watched: Watched) -> None:
    watch, train = watched()
    with pytest.raises(FloatFound):
        steps(train, watch, "elastic-2", "int8*")


# Each leaves no float behind: it is an integer again before it has a name.
PLANTS = [
    ("ezo.int8.optim", "(rate * mean) >> LOSS_FRACTION_BITS", "int(rate * mean / 1048576.0)"),
    ("ezo.int8.optim", "difference // max(examples, 1)", "int(difference / max(examples, 1))"),
    ("ezo.precisions.int8", "self._hyper.rate * now", "round(1e3) * now"),
    ("ezo.precisions.int8", "self._hyper.mu - step", "round(self._hyper.p_zero) - step"),
]


IN_NODES = [
    ("ezo.int8.nodes", "times = (rate << up) // divisor", "times = int((rate << up) / divisor)"),
    ("ezo.int8.nodes", 'self._group["rate"] // self', 'self._group["rate"] * 1.0 // self'),
    ("ezo.precisions.int8", "rate_node * now", "rate_node * round(now * 1.0)"),
]


@pytest.mark.parametrize(("module", "old", "new"), PLANTS)
def test_a_planted_float_is_found(watched: Watched, module: str, old: str, new: str) -> None:
    watch, train = watched(module=module, old=old, new=new)
    with pytest.raises(FloatFound, match=module):
        steps(train, watch, "elastic-2", "int8")


@pytest.mark.parametrize(("module", "old", "new"), IN_NODES)
def test_a_float_planted_in_nodes_is_found(
    watched: Watched, module: str, old: str, new: str
) -> None:
    watch, train = watched(module=module, old=old, new=new)
    with pytest.raises(FloatFound, match=module):
        steps(train, watch, "elastic-node-1", "int8")


def test_a_planted_floating_point_tensor_is_found(watched: Watched) -> None:
    old = "self._loss(self._network(batch), y)\n"
    new = "self._loss(self._network(batch), y.double().long())\n"
    watch, train = watched(module="ezo.precisions.int8", old=old, new=new)
    with pytest.raises(FloatFound, match="aten"):
        steps(train, watch, "elastic-2", "int8")
