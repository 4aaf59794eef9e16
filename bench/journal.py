"""A run's journal: bytes, bits a step, and the time of a replay over that of the training."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.cuda import is_cuda
from bench.timing import Clock
from bench.workload import row_of
from ezo import checkpoint
from ezo.journal import Journal, records, replay
from ezo.rows import Row
from ezo.run import Run, build, load

METHODS = ("full-zo",)
MODELS = ("lenet5",)
STEPS = 10_000
SMOKE = {"steps": 4}
COST = (4.0, 2 * STEPS)
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp32": ("fp32", {}),
    "int8-sign": (
        "int8",
        {"magnitude": "sign", "rate": 4096, "fraction": 0, "p_zero": 0.5, "schedule": "constant"},
    ),
    "int8-sign-cosine": (
        "int8",
        {"magnitude": "sign", "rate": 4096, "fraction": 0, "p_zero": 0.5, "schedule": "cosine"},
    ),
    "int8-absolute": ("int8", {}),
}


@dataclass(frozen=True)
class Kept:
    """A run on digits that keeps a journal, in one of `FORMS`."""

    model: str
    method: str
    batch_size: int
    form: str
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        place = "" if self.device == "cpu" else f"-{self.device.replace(':', '')}"
        return f"{self.model}-{self.method}-batch{self.batch_size}{place}-{self.form}"


def cases(model: str, method: str, batch_size: int) -> list[Kept]:
    """Each form of a method."""
    return [Kept(model, method, batch_size, form) for form in FORMS]


def measure(case: Kept, steps: int = STEPS) -> list[Row]:
    """Train, replay, and compare the digests.

    Seconds are of the processor, of one thread; on CUDA of the device's events.
    """
    torch.set_num_threads(case.threads)
    precision, hyper = FORMS[case.form]
    settled = Run(case.model, "digits", case.method, precision).settled(hyper)
    data = load(settled)
    model = build(settled, data.classes, data.train_x.shape[1])
    make = settled.files["precision"].make_step
    step = make(precision, model, case.method, settled.run.hyper, device=torch.device(case.device))
    x, y = step.calibrate(data.train_x).to(case.device), data.train_y.to(case.device)
    n = case.batch_size
    cuda = is_cuda(case.device)
    clock = Clock(case.device, "wall" if cuda else "cpu")
    init = {name: t.clone() for name, t in step.model.state_dict().items()}
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.ezoj"
        started = clock.now()
        with Journal(path, step.model, step.optimizer):
            for k in range(steps):
                first = n * (k % (len(x) // n))
                step.schedule(k, steps)
                step(x[first : first + n], y[first : first + n])
        trained = clock.now()
        found = replay(path, init)
        replayed = clock.now()
        kept = records.read(path)[0]
        size = path.stat().st_size
    ours, theirs = (checkpoint.digest(of) for of in (found.tensors, step.model.state_dict()))
    if ours != theirs:
        raise AssertionError(f"expected the digest {theirs} of a replay, got {ours}")
    chunks = sum(len(r.body) + records.OVERHEAD for r in kept if r.kind == "C")
    tail = sum(len(r.body) + records.OVERHEAD for r in kept if r.kind == "T")
    training, replaying = clock.seconds([(started, trained), (trained, replayed)])
    ratio = replaying / max(training, 1e-9)
    by = "CUDA events" if cuda else "processor time"
    config = {"batch_size": n, "form": case.form, "steps": steps}
    values = [
        ("journal_bytes", size, "B", "the whole file"),
        ("tail_bytes", tail, "B", "of which what no noise moves"),
        ("bits_a_step", 8 * chunks / steps, "1", "of the steps alone"),
        ("replay_over_training", ratio, "1", f"{by}; the digests are the same"),
    ]
    return [row_of(case, *of, config) for of in values]
