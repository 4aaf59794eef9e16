"""Where zeroth order ends and backpropagation begins, on any ``nn.Module``.

A model's parameters stand in the order in which its modules were registered, as
``model.named_parameters()`` gives them; for the usual model that is the order of the forward pass.
The split cuts this order once: ZO before, BP from there on. A parameter shared by two modules
stands where the first of them stands.
"""

import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

Split = int | str | nn.Module | Iterable[Tensor | nn.Module | str]


def layers(model: nn.Module) -> list[tuple[str, list[nn.Parameter]]]:
    """The parametric layers, in order: (name, trainable parameters) each.

    A layer is a module that owns a parameter of two or more dimensions (a weight). A module whose
    own parameters all have fewer (a norm's scale and shift) belongs to the layer before it.

    Examples:
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
    submodule or parameter on. A submodule or parameter, or several of these or of their names: they
    and no others. ``"all"``: everything. Parameters with ``requires_grad=False`` are in neither
    part.

    A head whose weight is an earlier layer's too (GPT-2's) is not among the last k: a warning says
    so. To train it alone by BP, untie it; as long as it is tied, its gradient needs the activations
    of all layers from the earlier one on.

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
            "or untie it, or give bp=0 for full ZO"
        )
    return zo, last


def expect_whole(model: object) -> None:
    """Raises:
    ValueError: it is no module, or one that is wrapped for BP alone.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError(
            "expected the model itself, got one wrapped in DistributedDataParallel, whose own "
            "exchanges a ZO step has no use for; give model.module, and ranks=True"
        )
    if not isinstance(model, nn.Module):
        raise ValueError(
            f"expected model to be the module itself, got {type(model).__name__}; give the "
            "model, not its parameters: bp says which of them BP trains"
        )


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
        _warn_of_tied(model, found, bp)
        return [p for _, parameters in found[len(found) - bp :] for p in parameters]
    if isinstance(bp, str):
        return _from_name_on(model, bp)
    if isinstance(bp, Tensor):
        bp = [bp]
    chosen = [p for one in ([bp] if isinstance(bp, nn.Module) else bp) for p in _of(model, one)]
    known = {id(p): p for p in model.parameters()}
    strangers = [i for i, p in enumerate(chosen) if id(p) not in known]
    if strangers:
        raise ValueError(
            f"expected parameters of the model, got others at positions {strangers}; "
            "pass the tensors that model.parameters() gives"
        )
    return [known[id(p)] for p in chosen]


def _of(model: nn.Module, one: Tensor | nn.Module | str) -> Iterable[Tensor]:
    if isinstance(one, str):
        found: dict[str, Tensor | nn.Module] = {
            **dict(model.named_parameters(remove_duplicate=False)),
            **dict(model.named_modules()),
        }
        if not one or one not in found:
            raise _unknown(one, [name for name in found if name])
        return _of(model, found[one])
    return one.parameters() if isinstance(one, nn.Module) else [one]


def _unknown(bp: str, known: list[str]) -> ValueError:
    return ValueError(
        f"expected bp to name a submodule or parameter of the model, got '{bp}'; "
        f"known: {', '.join(known)}"
    )


def _warn_of_tied(model: nn.Module, found: list[tuple[str, list[nn.Parameter]]], bp: int) -> None:
    """Of heads that stand among the last layers, but for their weight, which stands earlier."""
    place: dict[int, str] = {}
    order: list[tuple[str, str]] = []  # each layer, with the one whose weight it has
    for name, module in model.named_modules():
        if "parametrizations" in name.split("."):
            continue  # which its module has
        weights = [p for p in _own(module) if p.dim() >= 2 and p.requires_grad]
        for p in weights:
            place.setdefault(id(p), name)
        order += [(name, place[id(p)]) for p in weights[:1]]
    tied = [(name, owner) for name, owner in order[len(order) - bp :] if name != owner]
    if bp and tied:
        name, owner = tied[-1]
        warnings.warn(
            f"bp={bp}: {name} has the weight of {owner} and stands where that does; the order is "
            f"{', '.join(of for of, _ in found)}. BP begins at {found[-bp][0]}: name it to say "
            f"so, or untie {name} and give bp='{name}'",
            stacklevel=5,
        )


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
        raise _unknown(bp, names)
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
