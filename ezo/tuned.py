"""The hyperparameters found for each model, data set, method and precision: ``tuned.json``.

``python -m reproduce.search --write`` puts a search's result there; reports/README.md says how
those of today were chosen. A key is model/data/method, and the precision where it isn't fp32; names
of one precision's file share the first name's values.
"""

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ezo import catalogue

PATH = Path(__file__).with_suffix(".json")
FIRST_TURN = "mnist-rot30"  # the fine-tuning that was searched for


class Tuned(NamedTuple):
    """Hyperparameters, and in words where they come from."""

    hyper: Any
    source: str


def tuned(model: str, data: str, method: str, precision: str = "fp32", start: str = "") -> Any:
    """The values searched for this, else the nearest ones, else the method's default ones.

    The nearest are, in this order: of fine-tuning after ``start``, those of `FIRST_TURN`, then
    those of training; of rotated data, those of the unrotated; of data like MNIST, MNIST's; of a
    method with more BP layers than any searched for, those with the most.

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
                if (source, name) == (data, method):
                    return Tuned(replace(hyper, **values), f"searched for {where}")
                return Tuned(replace(hyper, **values), f"of the nearest search, {where}")
    return Tuned(hyper, f"the defaults of {method}: none were searched for {model} on {data}")


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
    return json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
