"""What is run: a preset is a list of experiments and of measurements."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from ezo import catalogue
from ezo.methods import Hyper
from ezo.methods._hyper import tuned
from ezo.train import PRECISIONS, Run

ACCURACY_METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp")
FINE_TUNING_METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
FEW = ("full-zo", "elastic-1", "full-bp")
ANGLES = (30, 45)  # degrees
SEEDS = (0, 1, 2)


class Experiment(NamedTuple):
    """Runs that are judged together.

    Attributes:
        kind: ``training``, ``fine-tuning`` or ``sensitivity``; stands in each row's config.
        runs: makes them.
    """

    kind: str
    runs: Callable[[], list[Run]]


class Cells(NamedTuple):
    """Measurements: every method of a benchmark on a model.

    Attributes:
        benchmark: file of ``bench``.
        model: name of a model.
        methods: names, or None for the benchmark's own.
    """

    benchmark: str
    model: str
    methods: tuple[str, ...] | None = None

    def cases(self) -> list[Any]:
        """What the benchmark measures, each in a process of its own."""
        module = importlib.import_module(f"bench.{self.benchmark}")
        return list(module.cases([self.model], self.methods, 32))


@dataclass(frozen=True)
class Preset:
    """One size of the reproduction.

    Attributes:
        about: what it runs and how long that takes.
        experiments: by name; ``--experiments`` chooses among them.
        cells: what is measured, before training begins.
        full: long enough for verdicts; otherwise only indications.
    """

    about: str
    experiments: dict[str, Experiment]
    cells: tuple[Cells, ...] = field(default=())
    full: bool = False

    def runs(self, only: tuple[str, ...] = ()) -> dict[str, list[Run]]:
        """Training runs by the kind of their experiment, and each run once.

        Args:
            only: names of experiments, or nothing for all. Runs that others start from come too.
        """
        every = {name: e.runs() for name, e in self.experiments.items()}
        by_case = {run.case: (name, run) for name, runs in every.items() for run in runs}
        wanted = [run.case for name in only or every for run in every[name]]
        starts = [by_case[case][1].start for case in wanted if by_case[case][1].start]
        found: dict[str, list[Run]] = {}
        for case in dict.fromkeys([*wanted, *starts]):
            name, run = by_case[case]
            found.setdefault(self.experiments[name].kind, []).append(run)
        return found


def training(
    model: str,
    data: str,
    methods: tuple[str, ...],
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
            hyper=hyper(model, data, method) if precision == "fp32" else None,
        )
        for seed in seeds
        for method in methods
    ]


def fine_tuning(
    data: str, *, seeds: Iterable[int], epochs: int, before: int, precision: str
) -> list[Run]:
    """From full BP's final fp32 weights after ``before`` epochs on ``data`` to the same rotated."""
    methods, found = FINE_TUNING_METHODS, []
    for seed in seeds:
        (start,) = training("lenet5", data, ("full-bp",), seeds=[seed], epochs=before)
        for angle in ANGLES:
            turned = f"{data}-rot{angle}"
            for run in training(
                "lenet5", turned, methods, seeds=[seed], epochs=epochs, precision=precision
            ):
                found.append(replace(run, start=start.case))
    return found


def sensitivity(data: str, *, epochs: int) -> list[Run]:
    """One hyperparameter at a time moved away from the chosen value; full-zo and elastic-2."""
    found = []
    for run in training("lenet5", data, ("full-zo", "elastic-2"), seeds=[0], epochs=epochs):
        centre = run.hyper
        assert centre is not None and centre.clip is not None
        changes: list[dict[str, Any]] = [{}]
        changes += [{"eps": centre.eps * factor} for factor in (0.25, 4.0)]
        changes += [{"lr": centre.lr * factor} for factor in (0.5, 2.0)]
        changes += [{"clip": centre.clip * factor} for factor in (0.5, 2.0)]
        if run.method != "full-zo":
            changes += [{"bp_gradient": at} for at in ("plus", "minus", "unperturbed")]
        found += [replace(run, hyper=replace(centre, **change)) for change in changes]
    return found


def hyper(model: str, data: str, method: str) -> Hyper:
    """The tuned values; where there are none, those of a kin.

    The kin of rotated data are the unrotated, of Fashion-MNIST MNIST, of elastic-k with k above 2
    elastic-2.
    """
    default = catalogue.find("method", method).HYPER
    deep = method.startswith("elastic-") and catalogue.number(method) > 2
    plain = data.partition("-rot")[0]
    for source in (data, plain, "mnist") if "mnist" in data else (data,):
        for name in (method, "elastic-2") if deep else (method,):
            if (found := tuned(model, source, name)) != default:
                return found
    return default


def _everywhere(make: Callable[[str], list[Run]], *precisions: str) -> Callable[[], list[Run]]:
    """The same runs in every precision that can be trained."""
    return lambda: [run for p in PRECISIONS if not precisions or p in precisions for run in make(p)]


def _lenet5(data: str, methods: tuple[str, ...] = ACCURACY_METHODS) -> Callable[[str], list[Run]]:
    return lambda p: training("lenet5", data, methods, seeds=SEEDS, epochs=20, precision=p)


def _fine_tuning(precision: str) -> list[Run]:
    return [
        run
        for data in ("mnist", "fashion-mnist")
        for run in fine_tuning(data, seeds=SEEDS, epochs=5, before=20, precision=precision)
    ]


LENET5_SPLITS = (
    "inference",
    "full-zo",
    *(f"elastic-{k}" for k in range(1, 5)),
    "tail-only-1",
    "tail-only-2",
    "full-bp",
    "full-bp-checkpoint",
)
POINTNET_SPLITS = (
    "inference",
    "full-zo",
    *(f"elastic-{k}" for k in range(1, 8)),
    "tail-only-1",
    "tail-only-2",
    "full-bp",
    "full-bp-checkpoint",
)

PRESETS = {
    "smoke": Preset(
        "Every part once, small: digits for one epoch. Under 90 seconds.",
        {
            "digits": Experiment(
                "training", lambda: training("lenet5", "digits", FEW, seeds=[0], epochs=1)
            )
        },
        (Cells("memory", "lenet5"),),
    ),
    "quick": Preset(
        "Digits on LeNet-5, 3 seeds; shapes on PointNet, 1 seed. No download; under 10 minutes on "
        "two cores.",
        {
            "digits": Experiment(
                "training",
                lambda: training("lenet5", "digits", ACCURACY_METHODS, seeds=SEEDS, epochs=40),
            ),
            "shapes": Experiment(
                "training", lambda: training("pointnet", "shapes-256", FEW, seeds=[0], epochs=1)
            ),
            "sensitivity": Experiment("sensitivity", lambda: sensitivity("digits", epochs=10)),
        },
        (Cells("memory", "lenet5"), Cells("memory", "pointnet")),
    ),
    "paper": Preset(
        "LeNet-5 on MNIST and Fashion-MNIST, 20 epochs; fine-tuning to both rotated, 5 epochs; "
        "PointNet on shapes, 15 epochs; 3 seeds; sensitivity; memory and step time over splits. "
        "Under 8 hours on two cores.",
        {
            "mnist": Experiment("training", _everywhere(_lenet5("mnist"))),
            "fashion-mnist": Experiment("training", _everywhere(_lenet5("fashion-mnist"))),
            "fine-tuning": Experiment(
                "fine-tuning",
                _everywhere(_fine_tuning, "fp32", "int8"),
            ),
            "splits": Experiment(
                "training", _everywhere(_lenet5("mnist", ("elastic-3", "elastic-4")), "fp32")
            ),
            "pointnet": Experiment(
                "training",
                lambda: training(
                    "pointnet", "shapes-256", ACCURACY_METHODS, seeds=SEEDS, epochs=15
                ),
            ),
            "sensitivity": Experiment("sensitivity", lambda: sensitivity("mnist", epochs=5)),
        },
        (
            Cells("memory", "lenet5", LENET5_SPLITS),
            Cells("memory", "pointnet", POINTNET_SPLITS),
            Cells("steptime", "lenet5"),
            Cells("steptime", "pointnet"),
        ),
        full=True,
    ),
}
