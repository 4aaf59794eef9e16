"""What is run: a preset is a list of experiments and of measurements."""

import importlib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

from bench import workload
from ezo import catalogue
from ezo.train import Run
from ezo.tuned import tuned

ACCURACY_METHODS = ("full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp")
FINE_TUNING_METHODS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
FEW = ("full-zo", "elastic-1", "full-bp")
ANGLES = (30, 45)  # degrees
SEEDS = (0, 1, 2)
MORE_SEEDS = (3, 4)  # where three leave undecided how near full BP is
UNDECIDED = f"mnist-rot{ANGLES[0]}"  # fine-tuning of which that holds


class Experiment(NamedTuple):
    """Runs that are judged together.

    Attributes:
        kind: a name in `reproduce.select.KINDS`, or ``sensitivity``; stands in each row's config.
        runs: makes them.
    """

    kind: str
    runs: Callable[[], list[Run]]


@dataclass(frozen=True)
class Cells:
    """Measurements: every method of a benchmark on a model, in every precision it can measure.

    Attributes:
        benchmark: file of ``bench``.
        model: name of a model.
        methods: names, or None for the benchmark's own.
        integers: also in int8, where the benchmark can.
        rounds: how often, each in new processes, fp32 and int8 in turn: A B, B A, A B ...
    """

    benchmark: str
    model: str
    methods: tuple[str, ...] | None = None
    integers: bool = False
    rounds: int = 1

    def cases(self) -> list[tuple[str, Any, int]]:
        """(benchmark, case, round): what is measured, each in a process of its own."""
        module = importlib.import_module(f"bench.{self.benchmark}")
        base = list(module.cases([self.model], self.methods, 32))
        can = getattr(workload, "PRECISIONS", ("fp32",))
        precisions = ["fp32", *(["int8"] if self.integers and "int8" in can else [])]
        found = []
        for n in range(self.rounds):
            for case in base:
                for precision in precisions if n % 2 == 0 else reversed(precisions):
                    one = case if precision == "fp32" else replace(case, precision=precision)
                    found.append((self.benchmark, one, n))
        return found


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
            hyper=hyper(model, data, method, precision),
        )
        for seed in seeds
        for method in methods
    ]


GENTLE = 2  # r_max of integer fine-tuning, half as much for each bit of room


def fine_tuning(
    data: str, *, seeds: Iterable[int], epochs: int, before: int, precision: str
) -> list[Run]:
    """From full BP's final fp32 weights after ``before`` epochs on ``data`` to the same rotated.

    Integer perturbations, which are counted in last places, are smaller: BP leaves a few weights
    far larger than the rest, and so the last place.
    """
    methods, found = FINE_TUNING_METHODS, []
    for seed in seeds:
        (start,) = training("lenet5", data, ("full-bp",), seeds=[seed], epochs=before)
        for angle in ANGLES:
            turned = f"{data}-rot{angle}"
            for run in training(
                "lenet5", turned, methods, seeds=[seed], epochs=epochs, precision=precision
            ):
                chosen = hyper("lenet5", turned, run.method, precision, start=data)
                if hasattr(chosen, "r_max"):
                    chosen = replace(chosen, r_max=max(1, GENTLE >> chosen.zo_growth))
                found.append(replace(run, hyper=chosen, start=start.case))
    return found


QUERIES = 4  # a step, beside one
MANY_QUERIES = 8  # where the aim is to come near BP


def with_queries(run: Run, queries: int) -> Run:
    """A run with so many perturbations a step, and so as many times the forward passes.

    The variance of their mean is ``queries`` times smaller; the ZO rate grows with the root.
    """
    rate = "lr" if run.precision == "fp32" else "rate"
    grown = getattr(run.hyper, rate) * math.sqrt(queries)
    grown = grown if run.precision == "fp32" else round(grown)
    return replace(run, hyper=replace(run.hyper, queries=queries, **{rate: grown}))


def more_queries(data: str, *, seeds: Iterable[int], epochs: int) -> list[Run]:
    """elastic-2 with `QUERIES` perturbations a step."""
    runs = training("lenet5", data, ("elastic-2",), seeds=seeds, epochs=epochs)
    return [with_queries(run, QUERIES) for run in runs]


def near_bp(data: str, *, seeds: Iterable[int], epochs: int) -> list[Run]:
    """How near full BP ElasticZO comes at many times the passes: elastic-2, and full BP.

    In integers, where a pass takes a quarter of its time in floats.
    """
    methods = ("elastic-2", "full-bp")
    runs = training("lenet5", data, methods, seeds=seeds, epochs=epochs, precision="int8")
    return [run if run.method == "full-bp" else with_queries(run, MANY_QUERIES) for run in runs]


SCALED = {"eps": (0.25, 4.0), "lr": (0.5, 2.0), "clip": (0.5, 2.0), "rate": (0.5, 2.0)}
OTHERS = {
    "r_max": (7, 31),
    "p_zero": (0.25, 0.75),
    "zo_growth": (0, 1),
    "magnitude": ("sign", "relative"),
    "bp_gradient": ("mean", "plus", "minus", "unperturbed"),
    "mu": (-1, 0, 2),
}
OF_BP = ("bp_gradient", "mu")


def sensitivity(data: str, *, epochs: int, precision: str = "fp32") -> list[Run]:
    """One hyperparameter at a time moved away from the chosen value; full-zo and elastic-2."""
    found = []
    for run in training(
        "lenet5", data, ("full-zo", "elastic-2"), seeds=[0], epochs=epochs, precision=precision
    ):
        chosen: Any = run.hyper
        centre = asdict(chosen)
        values = {
            name: [type(centre[name])(centre[name] * factor) for factor in factors]
            for name, factors in SCALED.items()
            if centre.get(name) is not None
        } | {name: list(tried) for name, tried in OTHERS.items() if name in centre}
        found.append(run)
        for name, tried in values.items():
            if name in OF_BP and run.method == "full-zo":
                continue
            for value in tried:
                if value != centre[name]:
                    found.append(replace(run, hyper=replace(chosen, **{name: value})))
    return found


def precisions() -> tuple[str, ...]:
    """The number formats that can be trained."""
    return tuple(catalogue.names("precision"))


def hyper(model: str, data: str, method: str, precision: str = "fp32", start: str = "") -> Any:
    """The tuned values, or the nearest (`ezo.tuned`)."""
    return tuned(model, data, method, precision, start)


def _everywhere(make: Callable[[str], list[Run]], *only: str) -> Callable[[], list[Run]]:
    """The same runs in every precision that can be trained, or in those of ``only``."""
    return lambda: [run for p in precisions() if not only or p in only for run in make(p)]


def _lenet5(data: str, methods: tuple[str, ...] = ACCURACY_METHODS) -> Callable[[str], list[Run]]:
    return lambda p: training("lenet5", data, methods, seeds=SEEDS, epochs=20, precision=p)


def _tuned(data: str, seeds: Iterable[int], precision: str) -> list[Run]:
    return fine_tuning(data, seeds=seeds, epochs=5, before=20, precision=precision)


def _fine_tuning(precision: str) -> list[Run]:
    more = _tuned("mnist", MORE_SEEDS, precision)
    return [
        *_tuned("mnist", SEEDS, precision),
        *_tuned("fashion-mnist", SEEDS, precision),
        *(run for run in more if (run.data, run.method) == (UNDECIDED, "full-bp")),
    ]


FASTER = 2  # fp32's rate in fine-tuning with many queries, over what their root makes it


def _fine_tuning_queries(precision: str) -> list[Run]:
    runs = _tuned("mnist", SEEDS, precision)
    runs += [run for run in _tuned("mnist", MORE_SEEDS, precision) if run.data == UNDECIDED]
    found = [with_queries(run, MANY_QUERIES) for run in runs if run.method == "elastic-1"]
    if precision == "fp32":
        return [replace(run, hyper=replace(run.hyper, lr=FASTER * run.hyper.lr)) for run in found]
    return found


def _lean(data: str) -> list[Run]:
    near = ("elastic-lean-3", "full-bp")
    return [
        *_lenet5(data, ("elastic-lean-2", "elastic-lean-3"))("fp32"),
        *training("lenet5", data, near, seeds=MORE_SEEDS, epochs=20),
    ]


MEASURED = ("inference", "full-zo", "elastic-1", "elastic-2", "full-bp")
LENET5_SPLITS = (
    "inference",
    "full-zo",
    *(f"elastic-{k}" for k in range(1, 5)),
    *(f"elastic-lean-{k}" for k in range(1, 5)),
    "tail-only-1",
    "tail-only-2",
    "full-bp",
    "full-bp-checkpoint",
)
POINTNET_SPLITS = (
    "inference",
    "full-zo",
    *(f"elastic-{k}" for k in range(1, 8)),
    *(f"elastic-lean-{k}" for k in range(1, 8)),
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
                "training", lambda: training("pointnet-bn", "shapes-256", FEW, seeds=[0], epochs=1)
            ),
            "sensitivity": Experiment("sensitivity", lambda: sensitivity("digits", epochs=10)),
        },
        (
            Cells("memory", "lenet5"),
            Cells("memory", "pointnet"),
            Cells("float_operations", "lenet5"),
        ),
    ),
    "paper": Preset(
        "LeNet-5 on MNIST and Fashion-MNIST, 20 epochs; fine-tuning to both rotated, 5 epochs, of "
        "elastic-1 also with eight queries a step; elastic-2 and elastic-lean-2 with four queries, "
        "elastic-lean-3; in int8 elastic-2 with eight queries and full-bp, 50 epochs; PointNet on "
        "shapes, 15 epochs; 3 seeds, of elastic-lean-3 and full-bp 5; sensitivity; memory and step "
        "time over splits. Under 8 hours on two cores.",
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
            "fine-tuning-queries": Experiment(
                "fine-tuning-queries", _everywhere(_fine_tuning_queries, "fp32", "int8")
            ),
            "queries": Experiment("queries", lambda: more_queries("mnist", seeds=SEEDS, epochs=20)),
            "long": Experiment(
                "long",
                lambda: [
                    run
                    for data in ("mnist", "fashion-mnist")
                    for run in near_bp(data, seeds=SEEDS, epochs=50)
                ],
            ),
            "lean": Experiment("training", lambda: [*_lean("mnist"), *_lean("fashion-mnist")]),
            "pointnet": Experiment(
                "training",
                lambda: training(
                    "pointnet-bn", "shapes-256", ACCURACY_METHODS, seeds=SEEDS, epochs=15
                ),
            ),
            "sensitivity": Experiment(
                "sensitivity",
                _everywhere(lambda p: sensitivity("mnist", epochs=5, precision=p), "fp32", "int8"),
            ),
        },
        (
            Cells("memory", "lenet5", LENET5_SPLITS),
            Cells("memory", "pointnet", POINTNET_SPLITS),
            Cells("memory", "lenet5", MEASURED, integers=True),
            Cells("memory", "pointnet", MEASURED, integers=True),
            Cells("float_operations", "lenet5"),
            Cells("float_operations", "pointnet"),
            Cells("steptime", "lenet5"),
            Cells("steptime", "pointnet"),
            Cells("precisions", "lenet5"),
            Cells("precisions", "pointnet", ("full-zo", "elastic-1")),
            Cells("time", "lenet5", MEASURED[1:]),
        ),
        full=True,
    ),
}
