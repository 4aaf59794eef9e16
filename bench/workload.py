"""What is measured: a step of a method, or a pass of inference, on random data of real shape."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench import peers
from ezo import catalogue
from ezo.data import Dataset
from ezo.methods._hyper import tuned
from ezo.rows import Row, provenance

CLASSES = {"image": 10, "points": 40}
IMAGE = (1, 28, 28)  # channels, height, width, of a model that doesn't say
PRECISIONS = tuple(catalogue.names("precision"))


@dataclass(frozen=True)
class Workload:
    """A method's step on one batch.

    Attributes:
        model: name of a model.
        method: name of a method, ``inference`` (a pass and its loss, no gradient), or a peer's.
        batch_size: examples.
        points: points per cloud, for a model of points.
        precision: a name that ``ezo list`` shows.
        threads: CPU threads.
        device: ``cpu``, ``cuda`` or any torch device.
    """

    model: str
    method: str
    batch_size: int = 32
    points: int = 1024
    precision: str = "fp32"
    threads: int = 1
    device: str = "cpu"

    @property
    def name(self) -> str:
        """Model, method and batch size, and what else is not the default."""
        more = [
            text
            for text, usual in (
                (self.precision, self.precision == "fp32"),
                (f"threads{self.threads}", self.threads == 1),
                (self.device.replace(":", ""), self.device == "cpu"),
                (f"points{self.points}", self.points == 1024),
            )
            if not usual
        ]
        return "-".join([self.model, self.method, f"batch{self.batch_size}", *more])

    @property
    def example(self) -> tuple[int, ...]:
        """Shape of an example: (channels, height, width) or (points, 3)."""
        module = catalogue.find("model", self.model)
        return getattr(module, "IMAGE", IMAGE) if module.INPUT == "image" else (self.points, 3)

    @property
    def channels(self) -> int:
        """Of an image, or coordinates of a point."""
        return self.example[0] if len(self.example) == 3 else 3

    def prepare(self) -> tuple[nn.Module, Callable[[], Any]]:
        """The model, and the function that does one step and returns the loss.

        Sets torch's number of threads.

        Raises:
            ValueError: a name is unknown.
            ModuleNotFoundError: the peer is not installed.
        """
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"unknown precision '{self.precision}' for a step to measure; known: "
                f"{', '.join(PRECISIONS)}"
            )
        torch.set_num_threads(self.threads)
        module = catalogue.find("model", self.model)
        classes = CLASSES[module.INPUT]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = module.build(self.model, classes, self.channels)
            x = torch.randn(self.batch_size, *self.example)
            y = torch.randint(0, classes, (self.batch_size,))
        if self.precision != "fp32":
            return self._trained(model, x, y)
        model, x, y = model.to(self.device), x.to(self.device), y.to(self.device)
        loss_function = nn.CrossEntropyLoss()

        def closure(backward: bool = False) -> Tensor:
            return loss_function(model(x), y)

        if self.method == "inference":
            return model, torch.no_grad()(closure)
        if self.method in peers.names():
            return model, peers.find(self.method).step(self.method, model, closure)
        hyper = tuned(self.model, "", self.method)
        method = catalogue.find("method", self.method)
        optimizer = method.optimizer(self.method, model, hyper, seed=0)
        return model, lambda: optimizer.step(closure)

    def _trained(
        self, model: nn.Module, x: Tensor, y: Tensor
    ) -> tuple[nn.Module, Callable[[], float]]:
        """The same by a precision's own trainer."""
        method = "full-zo" if self.method == "inference" else self.method
        precision = catalogue.find("precision", self.precision)
        hyper = tuned(self.model, "", method, self.precision)
        data = Dataset(x, y, x[:1], y[:1], classes=int(y.max()) + 1)
        device = torch.device(self.device)
        trainer = precision.trainer(self.precision, model, data, method, hyper, 0, device)
        batch, labels = trainer.batch(torch.arange(self.batch_size), torch.Generator())
        trainer.train_x = trainer.test_x = trainer.train_x[:0].clone()  # the batch is enough
        trainer.train_y = trainer.test_y = trainer.train_y[:0].clone()
        if self.method == "inference":
            del trainer.optimizer  # and with it the fractions of weights
            return trainer.model, lambda: trainer.loss(batch, labels)
        return trainer.model, lambda: trainer.mean_loss(
            trainer.step(batch, labels, 0, 1), 1, self.batch_size
        )

    def synchronise(self) -> None:
        """Wait until the device has done what it was given; a clock read before sees too little."""
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize(self.device)

    def row(self, metric: str, value: float | None, unit: str, note: str = "") -> Row:
        """A row about this workload, measured by this process."""
        config: dict[str, Any] = {"batch_size": self.batch_size}
        if len(self.example) == 2:
            config["points"] = self.points
        elif self.example != IMAGE:
            config["image"] = "x".join(map(str, self.example))
        return Row(
            case=self.name,
            metric=metric,
            value=value,
            unit=unit,
            note=note,
            model=self.model,
            data="random",
            method=self.method,
            precision=self.precision,
            config=config,
            device=self.device,
            threads=self.threads,
            **provenance(),
        )
