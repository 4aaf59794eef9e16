"""What is measured: a step of a method, or a pass of inference, on random data of real shape."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ezo import catalogue
from ezo.methods._hyper import tuned

CLASSES = {"image": 10, "points": 40}
PEERS = ("torchzero-mezo",)


@dataclass(frozen=True)
class Workload:
    """A method's step on one batch.

    Attributes:
        model: name of a model.
        method: name of a method, ``inference`` (a pass and its loss, no gradient), or
            ``torchzero-mezo``.
        batch_size: examples.
        points: points per cloud, for a model of points.
    """

    model: str
    method: str
    batch_size: int = 32
    points: int = 1024

    @property
    def name(self) -> str:
        return f"{self.model}-{self.method}-batch{self.batch_size}"

    def prepare(self) -> tuple[nn.Module, Callable[[], Tensor]]:
        """The model, and the function that does one step and returns the loss."""
        module = catalogue.find("model", self.model)
        classes = CLASSES[module.INPUT]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            if module.INPUT == "image":
                model = module.build(self.model, classes, 1)
                x = torch.randn(self.batch_size, 1, 28, 28)
            else:
                model = module.build(self.model, classes, 3)
                x = torch.randn(self.batch_size, self.points, 3)
            y = torch.randint(0, classes, (self.batch_size,))
        loss_function = nn.CrossEntropyLoss()

        def closure(backward: bool = False) -> Tensor:
            return loss_function(model(x), y)

        if self.method == "inference":
            return model, torch.no_grad()(closure)
        if self.method == "torchzero-mezo":
            return model, _torchzero(model, closure)
        hyper = tuned(self.model, "", self.method)
        method = catalogue.find("method", self.method)
        optimizer = method.optimizer(self.method, model, hyper, seed=0)
        return model, lambda: optimizer.step(closure)


def _torchzero(model: nn.Module, closure: Callable[..., Tensor]) -> Callable[[], Tensor]:
    """MeZO as torchzero's documentation builds it, with Gaussian noise like ours."""
    import torchzero as tz

    optimizer = tz.Optimizer(
        model.parameters(), tz.m.MeZO(h=1e-3, distribution="gaussian"), tz.m.LR(1e-4)
    )
    return lambda: optimizer.step(closure)
