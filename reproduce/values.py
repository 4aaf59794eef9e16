"""Which tuned values a run of the reproduction takes: its own, or those of a kin."""

from typing import Any

from ezo import catalogue
from ezo.methods._hyper import tuned

SEARCHED_TURN = "mnist-rot30"  # fine-tuning to which has values of its own, from MNIST
DEEPEST = {"elastic": "elastic-2", "elastic-lean": "elastic-lean-3"}  # that have values


def task(data: str, start: str = "") -> str:
    """What hyperparameters are searched for: training on ``data``, after ``start`` if any."""
    return f"{start} to {data}" if start else data


def hyper(model: str, data: str, method: str, precision: str = "fp32", start: str = "") -> Any:
    """The tuned values; where there are none, those of a kin.

    The kin of fine-tuning after training on ``start`` is that from MNIST to `SEARCHED_TURN`, then
    training; of rotated data the unrotated, of Fashion-MNIST MNIST, of elastic-k and elastic-lean-k
    with a larger k than was searched for that of `DEEPEST`.
    """
    deepest = DEEPEST.get(method.rpartition("-")[0], method)
    deep = deepest != method and catalogue.number(method) > catalogue.number(deepest)
    plain = data.partition("-rot")[0]
    near = (data, plain, "mnist") if "mnist" in data else (data, plain)
    if start:
        near = (task(data, start), task(SEARCHED_TURN, "mnist"), *near)
    for source in near:
        for name in (method, deepest) if deep else (method,):
            found = tuned(model, source, name, precision)
            if found != tuned(model, "", name, precision):
                return found
    return tuned(model, "", method, precision)
