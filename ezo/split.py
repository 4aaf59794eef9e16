"""Where zeroth order ends and backpropagation begins, on any ``nn.Module``.

A model's parameters stand in the order in which its modules were registered, as
``model.named_parameters()`` gives them; for the usual model that is the order of the forward pass.
The split cuts this order once: ZO before, BP from there on. A parameter shared by two modules
stands where the first of them stands.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Split = int | str | nn.Module | Iterable[Tensor]


def layers(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """The parametric layers, in order: (name, trainable parameters) each.

    A layer is a module that owns a parameter of two or more dimensions (a weight). A module whose
    own parameters all have fewer (a norm's scale and shift) belongs to the layer before it.

    >>> model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3), nn.ReLU(), nn.Linear(3, 1))
    >>> [name for name, parameters in layers(model)]
    ['0', '3']
    """
    found: list[tuple[str, list[nn.Parameter]]] = []
    for name, module, parameters in _own_parameters(model):
        owns_weight = any(p.dim() >= 2 for p in _own(module))
        if parameters and (owns_weight or not found):
            found.append((name, parameters))
        elif parameters:
            found[-1][1].extend(parameters)
    return found


def split(model: nn.Module, bp: Split) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Cut a model's trainable parameters in two: those by ZO and those by BP, in the model's order.

    Where BP begins, ``bp``, is an integer k: the last k parametric `layers`. A name: from this
    submodule or parameter on. Parameters, or a submodule for its parameters: these and no others.
    ``"all"``: everything. Parameters with ``requires_grad=False`` are in neither part.

    Raises:
        ValueError: no such layer, name or parameter, or the model has nothing to train, or BP has
            nothing and ``bp`` isn't 0.
    """
    every = [p for p in model.parameters() if p.requires_grad]
    if not every and any(p.dtype == torch.int8 for p in model.parameters()):
        raise ValueError(
            "expected a float model, got an integer network; train it by ezo.int8.ElasticZO"
        )
    if not every:
        raise ValueError(
            "expected a model with a parameter to train, got one with none; "
            "set requires_grad=True on those to train"
        )
    last = every if bp == "all" else _bp_part(model, bp)
    chosen = {id(p) for p in last}
    zo, last = [p for p in every if id(p) not in chosen], [p for p in every if id(p) in chosen]
    if not last and not isinstance(bp, int):
        raise ValueError(
            "expected bp to hold a parameter that requires a gradient and, where bp is a name, is "
            "not an earlier layer's too (tied weights), got none; give the parameters themselves, "
            "or give bp=0 for full ZO"
        )
    return zo, last


def _bp_part(model: nn.Module, bp: Split) -> list[nn.Parameter]:
    if isinstance(bp, bool) or not isinstance(bp, (int, str, nn.Module, Iterable)):
        raise ValueError(
            f"expected bp to be a number of layers, a name, a submodule or parameters, got {bp!r}"
        )
    if isinstance(bp, int):
        found = layers(model)
        if not 0 <= bp <= len(found):
            raise ValueError(
                f"expected 0 to {len(found)} BP layers, got {bp}; the parametric "
                f"layers are {', '.join(name or '(model)' for name, _ in found)}"
            )
        return [p for _, parameters in found[len(found) - bp :] for p in parameters]
    if isinstance(bp, str):
        return _from_name_on(model, bp)
    if isinstance(bp, Tensor):
        bp = [bp]
    chosen = list(bp.parameters() if isinstance(bp, nn.Module) else bp)
    known = {id(p): p for p in model.parameters()}
    strangers = [i for i, p in enumerate(chosen) if id(p) not in known]
    if strangers:
        raise ValueError(
            f"expected parameters of the model, got others at positions {strangers}; "
            "pass the tensors that model.parameters() gives"
        )
    return [known[id(p)] for p in chosen]


def _from_name_on(model: nn.Module, bp: str) -> list[nn.Parameter]:
    begun = False
    last: list[nn.Parameter] = []
    names: list[str] = []
    seen: set[int] = set()
    for name, module in model.named_modules():
        begun = begun or (name == bp and bp != "")
        names += [name] if name else []
        for own_name, p in module.named_parameters(name, recurse=False):
            begun = begun or own_name == bp
            names.append(own_name)
            if begun and p.requires_grad and id(p) not in seen:
                last.append(p)
            seen.add(id(p))
    if not begun:
        raise ValueError(
            f"expected bp to name a submodule or parameter of the model, got '{bp}'; "
            f"known: {', '.join(names)}"
        )
    return last


def _own_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Module, list[nn.Parameter]]]:
    """(name, module, its own trainable parameters not seen before) for each module, in order.

    What a parametrization (weight norm, for one) makes a module's weight from is the module's own.
    """
    seen: set[int] = set()
    for name, module in model.named_modules():
        own = [p for p in _own(module) if p.requires_grad and id(p) not in seen]
        seen.update(id(p) for p in own)
        yield name, module, own


def _own(module: nn.Module) -> list[nn.Parameter]:
    own = list(module.parameters(recurse=False))
    if parametrize.is_parametrized(module):
        own += list(module.parametrizations.parameters())  # type: ignore[union-attr]
    return own
