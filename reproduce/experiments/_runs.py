"""What the experiments' files share: making runs."""

import math
from collections.abc import Iterable
from dataclasses import replace

from ezo.train import Run
from ezo.tuned import tuned
from reproduce import rules

SEEDS = tuple(range(rules.LEAST_SEEDS))
FIVE_SEEDS = tuple(range(rules.SEEDS))  # of primary comparisons and of what they are paired with
MORE_SEEDS = FIVE_SEEDS[len(SEEDS) :]
METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp")
FINE_TUNING_METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
QUERIES = 4  # a step, beside one
MANY_QUERIES = 8  # where the aim is to come near BP


def training(
    model: str,
    data: str,
    methods: Iterable[str],
    *,
    seeds: Iterable[int],
    epochs: int,
    precision: str = "fp32",
) -> list[Run]:
    """Training from fresh weights: every method with every seed."""
    return [
        Run(
            model,
            data,
            method,
            precision,
            epochs=epochs,
            seed=seed,
            hyper=tuned(model, data, method, precision),
        )
        for seed in seeds
        for method in methods
    ]


def lenet5(data: str) -> list[Run]:
    """Twenty epochs of six methods in fp32 and int8, five seeds; int8* of ZO's, three seeds."""
    found = []
    for precision in ("fp32", "int8"):
        found += training("lenet5", data, METHODS, seeds=FIVE_SEEDS, epochs=20, precision=precision)
    return found + training("lenet5", data, METHODS[:3], seeds=SEEDS, epochs=20, precision="int8*")


def fine_tuning(
    data: str,
    *,
    angles: Iterable[int],
    seeds: Iterable[int],
    epochs: int,
    before: int,
    precision: str,
    methods: Iterable[str] = FINE_TUNING_METHODS,
) -> list[Run]:
    """From full BP's final fp32 weights after ``before`` epochs on ``data`` to the same rotated.

    Args:
        data: trained on before.
        angles: degrees.
        seeds: of both.
        epochs: of fine-tuning.
        before: epochs of the training before.
        precision: of fine-tuning.
        methods: of fine-tuning.
    """
    found = []
    for seed in seeds:
        (start,) = training("lenet5", data, ("full-bp",), seeds=[seed], epochs=before)
        for turned in (f"{data}-rot{angle}" for angle in angles):
            for run in training(
                *("lenet5", turned, methods),
                seeds=[seed],
                epochs=epochs,
                precision=precision,
            ):
                chosen = tuned("lenet5", turned, run.method, precision, start=data)
                found.append(replace(run, hyper=chosen, start=start.case))
    return found


def with_queries(run: Run, queries: int) -> Run:
    """A run with so many perturbations a step, and so as many times the forward passes.

    The variance of their mean is ``queries`` times smaller; the ZO rate grows with the root.
    """
    rate = "lr" if run.precision == "fp32" else "rate"
    grown = getattr(run.hyper, rate) * math.sqrt(queries)
    grown = grown if run.precision == "fp32" else round(grown)
    return replace(run, hyper=replace(run.hyper, queries=queries, **{rate: grown}))
