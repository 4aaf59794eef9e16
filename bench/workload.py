"""What is measured: a step of a method, or a pass of inference, on random data of real shape."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from bench import peers
from ezo import catalogue
from ezo.precisions import Step
from ezo.rows import Row, provenance

CLASSES = {"image": 10, "points": 40}
IMAGE = (1, 28, 28)  # channels, height, width, of a model that doesn't say


def prepared(
    precision: str, method: str, model: nn.Module, x: Tensor, y: Tensor, device: str, **changes: Any
) -> tuple[Step, Any, Tensor]:
    """A precision's step of a method, or a pass of ``inference``, and the batch as it takes it.

    ``model`` is at its initial weights, in floating point; ``changes`` are of the default
    hyperparameters.
    """
    file, name = catalogue.find("precision", precision), None if method == "inference" else method
    hyper = replace(file.default(name), **changes)
    place = None if device == "cpu" else torch.device(device)  # there are shapes that can't move
    step: Step = file.make_step(precision, model, name, hyper, device=place)
    return step, step.calibrate(x).to(device), y.to(device)


@dataclass(frozen=True)
class Workload:
    """A method's step on one batch: of examples, or of clouds of ``points`` points.

    The method is one that ``ezo list`` shows, a peer's, or ``inference``: a pass and its loss.
    """

    model: str
    method: str
    batch_size: int = 32
    points: int = 1024
    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"
    chunk: int = 0  # examples at a time (`ezo.stream`), 0 for all

    @property
    def name(self) -> str:
        """Model, method and batch size, and what else is not the default."""
        threads, points = f"threads{self.threads}", f"points{self.points}"
        more = [self.precision, threads, self.device.replace(":", ""), points]
        more += [f"chunk{self.chunk}"]
        usual = ("fp32", "threads1", "cpu", "points1024", "chunk0")
        other = [word for word, left_out in zip(more, usual, strict=True) if word != left_out]
        return "-".join([self.model, self.method, f"batch{self.batch_size}", *other])

    @property
    def example(self) -> tuple[int, ...]:
        """Shape of an example: (channels, height, width) or (points, 3)."""
        module = catalogue.find("model", self.model)
        return getattr(module, "IMAGE", IMAGE) if module.INPUT == "image" else (self.points, 3)

    @property
    def channels(self) -> int:
        """Of an image, or coordinates of a point."""
        return self.example[0] if len(self.example) == 3 else 3

    def prepare(self, **changes: Any) -> tuple[nn.Module, Callable[[], Any]]:
        """The model, and the function that does one step and returns the loss.

        Sets torch's number of threads. ``changes`` are of the default hyperparameters.

        Raises:
            ValueError: a name is unknown.
            ModuleNotFoundError: the peer is not installed.
        """
        torch.set_num_threads(self.threads)
        module = catalogue.find("model", self.model)
        classes = CLASSES[module.INPUT]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = module.build(self.model, classes, self.channels)
            x = torch.randn(self.batch_size, *self.example)
            y = torch.randint(0, classes, (self.batch_size,))
        if self.precision == "fp32" and self.method in peers.names():
            model, x, y = model.to(self.device), x.to(self.device), y.to(self.device)
            loss = nn.CrossEntropyLoss()

            def closure(backward: bool = False) -> Tensor:
                return loss(model(x), y)

            if self.chunk:
                raise ValueError(f"expected no chunk for {self.method}, a peer, got {self.chunk}")
            return model, peers.find(self.method).step(self.method, model, closure)
        step, batch, y = prepared(self.precision, self.method, model, x, y, self.device, **changes)
        if self.chunk:
            step.stream(self.chunk)
        return step.model, lambda: step.mean_loss(step(batch, y), 1, self.batch_size)

    def synchronise(self) -> None:
        """Wait until the device has done what it was given; a clock read before sees too little."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def row(self, metric: str, value: float | None, unit: str, note: str = "", **more: Any) -> Row:
        """A row about this workload, measured by this process; ``more`` is for its config."""
        config: dict[str, Any] = {"batch_size": self.batch_size}
        try:
            example = self.example
        except ValueError:  # the gate's, of a package that its sides alone have
            example = IMAGE
        if len(example) == 2:
            config["points"] = self.points
        elif example != IMAGE:
            config["image"] = "x".join(map(str, example))
        if self.chunk:
            config["chunk"] = self.chunk
        return row_of(self, metric, value, unit, note, {**config, **more})


def row_of(
    case: Any, metric: str, value: float | None, unit: str, note: str = "", config: Any = None
) -> Row:
    """A row about any case, measured by this process: what it has of a row's fields is there."""
    known = ("model", "data", "method", "precision", "device", "threads")
    about = {name: getattr(case, name) for name in known if hasattr(case, name)}
    if "model" in about:
        about.setdefault("data", "random")
    return Row(
        case.name, metric, value, unit, note=note, config=config or {}, **about, **provenance()
    )
