"""Which layers have nodes, and their parameter groups."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn


@dataclass(frozen=True)
class Nodes:
    """Layers whose outputs are perturbed, and how they learn.

    Attributes:
        lr: learning rate. It should fall for longer training, about as 1 / sqrt(steps).
        sigma: size of the noise, in units of an output.
        clip: bound on an example's |d| over sigma, or None.
        weight_decay: decoupled, per unit of lr.
        layers: the layers, or their names in the model; None for each `torch.nn.Linear` of the ZO
            part that shares no weight, and those that a module declares (``BEFORE_MAXIMUM``).
    """

    lr: float = 3e-3
    sigma: float = 0.1
    clip: float | None = 3.0
    weight_decay: float = 0.0
    layers: Iterable[str | nn.Module] | None = None


class Layer(NamedTuple):
    """A layer with noise on its outputs.

    Fields:
        number: its weight's place among the ZO parameters, and in the noise stream.
        parameters: those that learn, the weight first.
        relu: whether a ReLU follows.
        maximum: whether the maximum over points follows.
    """

    name: str
    module: nn.Linear | nn.Conv1d
    number: int
    parameters: list[nn.Parameter]
    relu: bool
    maximum: bool

    @property
    def free(self) -> bool:
        """Whether it learns now; a layer of which a parameter is frozen stays whole."""
        return all(p.requires_grad for p in self.parameters)


def groups_of(
    nodes: bool | Nodes | Sequence[Nodes], model: nn.Module, zo: list[nn.Parameter]
) -> tuple[list[list[Layer]], list[dict[str, Any]]]:
    """The layers with nodes and their parameter groups; none where nodes are off or ZO is."""
    given = [Nodes()] if nodes is True else [nodes] if isinstance(nodes, Nodes) else nodes or ()
    layers, groups = [], []
    for of in given if zo else ():
        if not isinstance(of, Nodes):
            raise ValueError(
                f"expected nodes to be True, False or Nodes, got {of!r}; give for example "
                "Nodes(lr=1e-3)"
            )
        values = {"lr": of.lr, "sigma": of.sigma, "clip": of.clip, "weight_decay": of.weight_decay}
        if found := find(model, zo, of.layers):
            layers.append(found)
            params = [p for layer in found for p in layer.parameters]
            groups.append({"params": params, **values, "zo": True})
    every = [layer.name for of in layers for layer in of]
    if len(set(every)) < len(every):
        raise ValueError(
            f"expected each layer in one of the nodes, got {', '.join(every)}; name each once"
        )
    return layers, groups


def find(
    model: nn.Module, zo: Sequence[nn.Parameter], wanted: Iterable[str | nn.Module] | None
) -> list[Layer]:
    """The layers that have nodes unless told otherwise, maybe none; or those that are wanted.

    Args:
        zo: the ZO part, in order.
        wanted: ``layers`` of `Nodes`.

    Raises:
        ValueError: a layer that is wanted can't have nodes; says why.
    """
    modules = dict(model.named_modules())
    uses = Counter(id(p) for m in modules.values() for p in m.parameters(recurse=False))
    numbers = {id(p): t for t, p in enumerate(zo)}
    maxima = {
        f"{name}.{child}" if name else child
        for name, module in modules.items()
        for child in getattr(module, "BEFORE_MAXIMUM", ())
    }
    before_relu = {
        id(module)
        for sequence in modules.values()
        if isinstance(sequence, nn.Sequential)
        for module, after in zip(sequence, list(sequence)[1:], strict=False)
        if isinstance(after, nn.ReLU)
    }
    found, refused = [], {}
    for name, module in modules.items():
        if why := _why_not(module, numbers, uses):
            refused[name] = why
            continue
        if wanted is None and not (type(module) is nn.Linear or name in maxima):
            continue
        own = [p for p in (module.weight, module.bias) if id(p) in numbers]
        relu, number = id(module) in before_relu, numbers[id(own[0])]
        found.append(Layer(name, module, number, own, relu, name in maxima))
    return found if wanted is None else [_wanted(a, found, refused, modules) for a in wanted]


def _why_not(module: nn.Module, numbers: dict[int, int], uses: Counter[int]) -> str:
    """Why a module can't have nodes, or nothing."""
    weight = module._parameters.get("weight")
    pointwise = isinstance(module, nn.Conv1d) and (
        (module.kernel_size, module.stride, module.padding, module.groups) == ((1,), (1,), (0,), 1)
    )
    if weight is None or not (isinstance(module, nn.Linear) or pointwise):
        return "neither linear nor pointwise"
    if uses[id(weight)] > 1:
        return "sharing its weight"
    return "" if id(weight) in numbers else "no part of what ZO trains"


def _wanted(
    ask: str | nn.Module,
    found: list[Layer],
    refused: dict[str, str],
    modules: dict[str, nn.Module],
) -> Layer:
    for layer in found:
        if ask in (layer.name, layer.module):
            return layer
    name = next((name for name, m in modules.items() if ask in (name, m)), None)
    what = f"'{name}', {refused[name]}" if name in refused else f"{ask!r}, none of the model's"
    known = ", ".join(layer.name for layer in found)
    raise ValueError(
        f"expected nodes on layers that can have them, {known or 'of which there are none'}, "
        f"got {what}; leave it out"
    )
