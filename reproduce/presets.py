"""What is run: a preset chooses experiments, their sizes, and measurements."""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bench import grid
from ezo.train import Run
from reproduce import experiments
from reproduce.experiments import Experiment
from reproduce.rules import CHUNK


@dataclass(frozen=True)
class Cells:
    """Measurements of a benchmark on a model.

    Attributes:
        benchmark: file of ``bench``.
        model: name of a model.
        methods: names; all of them, so that no file beside a method's can change a preset.
        integers: also in int8.
        few: interleaved rounds of a timing, where the benchmark's own number takes too long.
        batch_size: examples a step.
        threads: CPU threads.
        chunk: examples at a time (`ezo.stream`), 0 for all.
    """

    benchmark: str
    model: str
    methods: tuple[str, ...]
    integers: bool = False
    few: int | None = None
    batch_size: int = 32
    threads: int = 1
    chunk: int = 0

    def cases(self) -> Iterator[tuple[str, Any]]:
        """(benchmark, case): what is measured, each in a process of its own."""
        module = importlib.import_module(f"bench.{self.benchmark}")
        for case in grid.cases(module, self.model, self.methods, self.batch_size):
            case = replace(case, threads=self.threads)
            if self.chunk:
                case = replace(case, chunk=self.chunk)
            if self.few is not None:
                case = replace(case, rounds=self.few)
            yield self.benchmark, case
            if self.integers:
                yield self.benchmark, replace(case, precision="int8")


@dataclass(frozen=True)
class Preset:
    """One size of the reproduction.

    Attributes:
        about: what it runs and how long that takes.
        experiments: by name; ``--experiments`` chooses among them.
        cells: what is measured, before training begins.
        full: long enough for verdicts; otherwise only what is exact gets one.
        data: that its primary comparisons are on (`reproduce.rules.PRIMARY`).
    """

    about: str
    experiments: dict[str, Experiment]
    cells: tuple[Cells, ...] = field(default=())
    full: bool = False
    data: str = "digits"

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


def whole(*names: str) -> dict[str, Experiment]:
    """Experiments at the size that their files give them."""
    return {name: experiments.find(name) for name in names}


STEPS = ("full-zo", "elastic-1", "elastic-2", "full-bp")
PEERS = (
    "torch-sgd",
    "torch-adam",
    "torch-sgd-fused-backward",
    "torchao-adam8bit",
    "torchopt-zero-order",
    "torchzero-mezo",
)


def splits(layers: int, *others: str) -> tuple[str, ...]:
    """Every number of BP layers below ``layers``, and what stands beside them."""
    return ("inference", "full-zo", *(f"elastic-{k}" for k in range(1, layers)), *others)


def _lean(layers: int) -> tuple[str, ...]:
    return tuple(f"elastic-lean-{k}" for k in range(1, layers))


NODES = ("full-zo-node", "full-zo-feedback", "elastic-node-2")
CONTROLS = ("tail-only-1", "tail-only-2", "full-bp", "full-bp-checkpoint")

PRESETS = {
    "smoke": Preset(
        "Every part once, small: digits for one epoch. Under 90 seconds.",
        {
            "digits": experiments.find(
                "digits",
                methods=("full-zo", "elastic-1", "full-bp"),
                seeds=(0,),
                epochs=1,
                precisions=("fp32",),
            )
        },
        (Cells("memory", "lenet5", splits(5, "full-bp", "full-bp-checkpoint")),),
    ),
    "quick": Preset(
        "LeNet-5 on digits in fp32 and int8, fine-tuning to them rotated, 3 seeds; memory, and "
        "time of fp32 beside int8. No download; 8 minutes on two cores.",
        whole("digits", "digits-long", "digits-lean", "digits-nodes", "digits-fine-tuning"),
        (
            Cells("memory", "lenet5", splits(5, "elastic-lean-3", "full-bp", "full-bp-checkpoint")),
            Cells("memory", "lenet5", ("inference", *STEPS), integers=True),
            Cells("memory", "lenet5", ("full-zo", "elastic-2"), integers=True, chunk=CHUNK),
            Cells("memory", "lenet5", ("full-zo",), integers=True, chunk=1),
            Cells("memory", "lenet5", NODES[:1]),
            Cells("memory", "pointnet", splits(3)),
            Cells("float_operations", "lenet5", STEPS),
            Cells("precisions", "lenet5", ("full-zo", "elastic-2"), few=5),
        ),
    ),
    "paper": Preset(
        "LeNet-5 on MNIST and Fashion-MNIST, 20 epochs, five seeds in fp32 and int8, also in the "
        "paper's form of int8; fine-tuning to both rotated, 5 epochs, of "
        "elastic-1 also with eight queries a step; elastic-2 and elastic-lean-2 with four queries, "
        "elastic-lean-3; in int8 elastic-2 with eight queries and full-bp, 50 epochs; PointNet on "
        "shapes, 15 epochs; node perturbation, ours, on the same images and on upright clouds; "
        "noise that is cheaper to draw; 3 seeds, of elastic-lean-3 5; sensitivity; "
        "memory and step time over splits. "
        "About 34 hours of one thread.",
        whole(
            *("mnist", "fashion-mnist", "fine-tuning", "splits", "fine-tuning-queries"),
            *("queries", "long", "lean", "controls", "pointnet", "sensitivity"),
            *("nodes", "pointnet-upright", "noises", "sign"),
        ),
        (
            Cells("memory", "lenet5", splits(5, *_lean(5), *CONTROLS)),
            Cells("memory", "pointnet", splits(8, *_lean(8), *CONTROLS)),
            Cells("memory", "lenet5", (*NODES, "elastic-feedback-2")),
            Cells("memory", "pointnet", NODES),
            Cells("memory", "lenet5", ("inference", *STEPS), integers=True),
            Cells("memory", "pointnet", ("inference", *STEPS), integers=True),
            Cells("memory", "lenet5", ("inference", *STEPS[:3]), integers=True, chunk=CHUNK),
            Cells("memory", "lenet5", ("inference", *STEPS[:3]), integers=True, chunk=1),
            Cells("memory", "pointnet", ("inference", *STEPS[:3]), integers=True, chunk=1),
            Cells("float_operations", "lenet5", STEPS),
            Cells("float_operations", "pointnet", STEPS),
            Cells("compare", "lenet5", (*STEPS, *NODES, *PEERS)),
            Cells("compare", "pointnet", (*STEPS, *NODES, *PEERS)),
            Cells("precisions", "lenet5", STEPS),
            Cells("precisions", "lenet5", STEPS, threads=2),
            Cells("precisions", "lenet5", STEPS, batch_size=256),
            Cells("precisions", "pointnet", ("full-zo", "elastic-1"), batch_size=8),
            Cells("time", "lenet5", STEPS),
        ),
        full=True,
        data="mnist",
    ),
}
