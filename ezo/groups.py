"""Parameter groups of the ZO part, and the optimiser of the BP part, as a caller gives them."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from ezo import check

GROUP: dict[str, tuple[Callable[[Any], Any], str]] = {  # what a ZO group may set
    "lr": (lambda v: check.finite(v) and v >= 0, "a finite number of 0 or more"),
    "eps": (lambda v: check.finite(v) and v > 0, "a finite number above 0"),
    "clip": (lambda v: v is None or GROUP["eps"][0](v), "a finite number above 0, or None"),
    "weight_decay": (lambda v: check.finite(v) and v >= 0, "a finite number of 0 or more"),
}
NODE_GROUP = {**GROUP, "sigma": GROUP["eps"]}


def made(
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer], parameters: list[nn.Parameter]
) -> Optimizer:
    found = bp_optimizer(parameters) if callable(bp_optimizer) else None
    if not isinstance(found, Optimizer):
        got = type(bp_optimizer).__name__
        if callable(bp_optimizer):
            got = f"one that returns {type(found).__name__}"
        raise ValueError(
            "expected bp_optimizer to be a function that returns a torch optimiser of a list of "
            f"parameters, got {got}; give for example lambda parameters: "
            "torch.optim.Adam(parameters)"
        )
    return found


def zo_groups_of(
    zo: list[nn.Parameter], zo_groups: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    if zo_groups is None:
        return [{"params": zo}]
    given = [checked(group) for group in zo_groups]
    listed = {id(p) for group in given for p in group["params"]}
    if listed != {id(p) for p in zo}:
        raise ValueError(
            f"expected zo_groups to hold each of the {len(zo)} ZO parameters once, got "
            f"{len(listed)} parameters; move the missing ones in or the others out"
        )
    return given


def checked(group: dict[str, Any]) -> dict[str, Any]:
    """A copy of a ZO group, its parameters as a list."""
    keys = set(group) if isinstance(group, dict) else {f"a {type(group).__name__}"}
    if "params" not in keys or not keys <= {"params", "initial_lr", *GROUP}:
        raise ValueError(
            f"expected a ZO group to be a dict of params and any of {', '.join(GROUP)}, got "
            f"{', '.join(sorted(map(str, keys))) or 'none'}; give these keys and no others"
        )
    expect_group(group)
    params = group["params"]
    if isinstance(params, set):
        raise ValueError("expected params in an order, got a set, which has none; give a list")
    return {**group, "params": [params] if isinstance(params, Tensor) else list(params)}


def expect_group(group: dict[str, Any], may: dict[str, Any] = GROUP) -> None:
    for name, (holds, expected) in may.items():
        if name in group:
            check.expect(name, group[name], holds(group[name]), expected)
