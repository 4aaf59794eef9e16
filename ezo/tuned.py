"""The hyperparameters found for each model, data set, method and precision: ``tuned.json``.

``python -m reproduce.search --write`` puts a search's result there; reports/README.md says how
those of today were chosen. A key is model/data/method, and the precision where it isn't fp32; names
of one precision's file share the first name's values.
"""

import functools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ezo import catalogue
from ezo.rows import json_types

PATH = Path(__file__).with_suffix(".json")
FIRST_TURN = "mnist-rot30"  # the fine-tuning that was searched for
GENTLE = 2  # r_max of integer fine-tuning, half as much for each bit of room


class Tuned(NamedTuple):
    """Hyperparameters, and in words where they come from."""

    hyper: Any
    source: str


def tuned(model: str, data: str, method: str, precision: str = "fp32", start: str = "") -> Any:
    """The values searched for this, else the nearest ones, else the method's default ones.

    The nearest are, in this order: of fine-tuning after ``start``, those of `FIRST_TURN`, then
    those of training; of rotated data, those of the unrotated; of data like MNIST, MNIST's; of a
    method with more BP layers than any searched for, those with the most.

    Fine-tuning in integers that takes training's values has a smaller ``r_max``, as perturbations
    are counted in last places: BP leaves a few weights far larger than the rest, and so the last
    place.

    Raises:
        ValueError: a name is unknown, or the method has no form in this precision.

    >>> tuned("lenet5", "fashion-mnist", "elastic-4") == tuned("lenet5", "mnist", "elastic-2")
    True
    """
    return find(model, data, method, catalogue.find("precision", precision), start).hyper


def find(model: str, data: str, method: str, precision: ModuleType, start: str = "") -> Tuned:
    """As `tuned`, of a precision's file, with the source."""
    first = precision.NAMES[0]
    end = "" if first == "fp32" else f"/{first}"
    hyper = precision.default(method)
    for source in _near(data, start):
        for name in _methods(f"{model}/{source}/", method, end):
            if (values := _table().get(f"{model}/{source}/{name}{end}")) is not None:
                where = f"{model} on {source} by {name}"
                how = (
                    "searched for" if (source, name) == (data, method) else "of the nearest search,"
                )
                found = Tuned(_replaced(hyper, values), f"{how} {where}")
                return _gentler(found) if start and " to " not in source else found
    none = Tuned(hyper, f"the defaults of {method}: none were searched for {model} on {data}")
    return _gentler(none) if start else none


def _gentler(found: Tuned) -> Tuned:
    """Values of training for fine-tuning."""
    if not hasattr(found.hyper, "r_max"):
        return found
    r_max = max(1, GENTLE >> found.hyper.zo_growth)
    return Tuned(replace(found.hyper, r_max=r_max), f"{found.source}; r_max {r_max} to fine-tune")


def started_on(model: str, start: str) -> str:
    """What the run of a case was trained on, as `find` takes it: where full BP did, its data's
    name, and else text that names no data.

    >>> started_on("lenet5", "lenet5-fashion-mnist-full-bp-fp32-seed0-0a1b2c3d")
    'fashion-mnist'
    """
    return start.removeprefix(f"{model}-").partition("-full-bp-")[0]


def task(data: str, start: str = "") -> str:
    """What is searched for: training on ``data``, after ``start`` if any."""
    return f"{start} to {data}" if start else data


def _near(data: str, start: str) -> Iterator[str]:
    """Tasks, the nearest first."""
    if start:
        yield from (task(data, start), task(FIRST_TURN, "mnist"))
    yield from (data, data.partition("-rot")[0])
    if "mnist" in data:
        yield "mnist"


def _methods(before: str, method: str, end: str) -> Iterator[str]:
    """The method, and that with the most BP layers that has values, if these are fewer."""
    yield method
    kind, dash, k = method.rpartition("-")
    if k.isdigit():
        key = re.compile(re.escape(before + kind + dash) + r"(\d+)" + re.escape(end))
        known = [int(found[1]) for found in map(key.fullmatch, _table()) if found]
        if known and max(known) < int(k):
            yield f"{kind}-{max(known)}"


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    if not PATH.exists():
        return {}
    try:
        return dict(json.loads(PATH.read_text(encoding="utf-8")))
    except (OSError, RecursionError, TypeError, ValueError) as error:
        raise _bad(str(error)) from error


def _replaced(hyper: Any, values: Any) -> Any:
    """Hyperparameters with values of the table."""
    try:
        of = {field.name: json_types(field.type) for field in fields(hyper)}
        for name, value in values.items():
            if type(value) not in of[name] or (type(value) is float and not math.isfinite(value)):
                raise TypeError(f"{name} {value!r:.40}")
        return replace(hyper, **values)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise _bad(f"{type(error).__name__}: {error}") from error


def _bad(got: str) -> ValueError:
    return ValueError(
        f"{PATH}: expected hyperparameters by task, as `python -m reproduce.search --write` puts "
        f"there, got {got}; bring the file back"
    )
