"""One hyperparameter at a time moved away from the chosen value; full-zo and elastic-2."""

from dataclasses import asdict, replace
from typing import Any

from ezo.train import Run
from reproduce.experiments._runs import training

KIND = "sensitivity"
METHODS = ("full-zo", "elastic-2")
SCALED = {"eps": (0.25, 4.0), "lr": (0.5, 2.0), "clip": (0.5, 2.0), "rate": (0.5, 2.0)}
OTHERS = {
    "r_max": (7, 31),
    "p_zero": (0.25, 0.75),
    "zo_growth": (0, 1),
    "magnitude": ("sign",),
    "bp_gradient": ("mean", "plus", "minus", "unperturbed"),
    "mu": (-1, 0, 2),
}
OF_BP = ("bp_gradient", "mu")


def runs(
    data: str = "mnist", epochs: int = 5, precisions: tuple[str, ...] = ("fp32", "int8")
) -> list[Run]:
    """One seed."""
    return [
        run
        for precision in precisions
        for centre in training(
            "lenet5", data, METHODS, seeds=[0], epochs=epochs, precision=precision
        )
        for run in varied(centre)
    ]


def varied(run: Run) -> list[Run]:
    """The run, and the run with one value changed, for each value that is tried."""
    chosen: Any = run.hyper
    centre = asdict(chosen)
    tried = {
        name: tuple(type(centre[name])(centre[name] * factor) for factor in factors)
        for name, factors in SCALED.items()
        if centre.get(name) is not None
    } | {name: values for name, values in OTHERS.items() if name in centre}
    return [run] + [
        replace(run, hyper=replace(chosen, **{name: value}))
        for name, values in tried.items()
        if run.method != "full-zo" or name not in OF_BP
        for value in values
        if value != centre[name]
    ]
