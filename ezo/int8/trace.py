"""A float model's forward as a graph (torch.fx), and the lines that it came from."""

import builtins
import itertools
import operator
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn

# Modules of torch that are looked into; its others, but Sequential, have no integer form.
KNOWN = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.ReLU, nn.ReLU6, nn.MaxPool2d, nn.Flatten, nn.Identity),
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.ZeroPad2d),
)
# Those whose own forward asks for sizes; they are looked at from outside.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class _Holder(nn.Module):
    """Calls the model, as ``model``, so that its own hooks and defaults count."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Trace(fx.Tracer):
    """A model's graph, and the line of the user's that made each node of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, nn.Module):
            raise ValueError(f"expected an nn.Module to convert, got {type(model).__name__}")
        self.lines: dict[fx.Node, str] = {}
        self.holder = _Holder(model)
        try:
            self.graph = self.trace(self.holder)
        except Exception as error:
            frames = reversed([*traceback.walk_tb(error.__traceback__)])
            raise ValueError(
                f"can't convert the model: its forward can't be traced{_line(frames)}: {error}; "
                "let it take one tensor, on whose values and sizes no control flow and no number "
                "depends (x.shape[0] may stand in a shape), or give an nn.Sequential of its layers"
            ) from error

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return super().is_leaf_module(m, module_qualified_name) and type(m) not in KNOWN

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        frames = traceback.walk_stack(sys._getframe(1))
        ours = Path(__file__)  # beyond which lies who converts the model
        self.lines[node] = _line(itertools.takewhile(lambda at: _file(at[0]) != ours, frames))
        return node

    def place(self, node: fx.Node) -> tuple[str, str]:
        """The name that a layer gets here, and words for messages."""
        stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
        path = str(node.target) if node.op == "call_module" else (stack or ["model"])[-1]
        module, name = self.holder.get_submodule(path), function(node)
        if node.op == "call_module" or type(module) in KNOWN:
            return own(path) or name, f"{path}, {str(module).splitlines()[0].rstrip('(')}"
        return own(f"{path}.{name}"), f"{name} in {path}, {type(module).__name__},"

    def norm_of(self, node: fx.Node) -> tuple[Any, ...] | None:
        """(mean, variance, gamma, beta, eps) of a batch norm, by its running statistics."""
        if node.op == "call_module":
            m: Any = self.holder.get_submodule(str(node.target))
            if type(m) not in BATCH_NORMS:
                return None
            return m.running_mean, m.running_var, m.weight, m.bias, m.eps
        if node.op != "call_function" or function(node) != "batch_norm":
            return None
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum")
        given = dict(zip((*names, "eps"), node.args, strict=False)) | node.kwargs
        found = [given.get(name) for name in ("running_mean", "running_var", "weight", "bias")]
        held = [self._held(of) for of in found]
        return (*held, given.get("eps", 1e-5))

    def _held(self, of: Any) -> Any:
        """The tensor of the model that a node stands for."""
        if isinstance(of, fx.Node) and of.op == "get_attr":
            return operator.attrgetter(str(of.target))(self.holder)
        return None


def _file(frame: FrameType) -> Path:
    return Path(frame.f_code.co_filename)


def _line(frames: Iterable[tuple[FrameType, int]]) -> str:
    """The innermost line that is neither torch's nor ours, or nothing."""
    torch_s = Path(torch.__file__).parent
    for frame, number in frames:
        if _file(frame) != Path(__file__) and torch_s not in _file(frame).parents:
            return f" at {_file(frame)}:{number}"
    return ""


def own(path: str, but: str = "") -> str:
    """A path in the user's model, from one in `_Holder`."""
    return path.removeprefix("model").removesuffix(but).strip(".")


def function(node: fx.Node) -> str:
    """The name of torch's function or method, or what another one looks like."""
    target: Any = node.target
    if not callable(target):
        return str(target)
    homes = (torch, nn.functional, operator, builtins)
    known = any(getattr(home, target.__name__, None) is target for home in homes)
    return target.__name__ if known else repr(target)


def parametric(model: nn.Module) -> list[str]:
    """Paths of the modules whose weights a forward takes and a step moves, in its order."""
    trace = Trace(model)
    taken = [[str(w.target) for w in node.all_input_nodes[1:]] for node in trace.graph.nodes]
    free = {name for name, p in trace.holder.named_parameters() if p.requires_grad}
    known = {name for name, _ in trace.holder.named_parameters()}
    return [own(t[0], ".weight") for t in taken if t and t[0] in known and free.intersection(t)]
