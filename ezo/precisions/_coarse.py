"""ZO weights of 16 bits, the BP part in float32 under autocast: what bf16 and fp16 share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ezo.methods import Hyper
from ezo.precisions import Step, fp32
from ezo.ranks import Ranks


def make_step(
    dtype: torch.dtype,
    name: str,
    model: nn.Module,
    method: str | None,
    hyper: Hyper,
    seed: int = 0,
    *,
    device: torch.device | None = None,
    loss: fp32.Loss | None = None,
    bp_optimizer: Callable[[list[nn.Parameter]], Optimizer] | None = None,
    ranks: bool | Ranks = False,
    estimator: str = "central",
) -> Step:
    """As fp32's, of a model whose parameters that BP does not train are of a type of 16 bits."""
    how: dict[str, Any] = {"loss": loss, "bp_optimizer": bp_optimizer, "ranks": ranks}
    how["estimator"] = estimator
    step = fp32.make_step(name, model, method, hyper, seed, device=device, **how)
    groups = step.optimizer.param_groups if step.optimizer else []
    bp = {id(p) for group in groups if not group.get("zo") for p in group["params"]}
    for p in step.model.parameters():
        if id(p) not in bp and p.dtype == torch.float32:
            p.data = p.data.to(dtype)
    return _Step(step, dtype)


class _Step(Step):
    """A step of fp32's within autocast."""

    def __init__(self, inner: Step, dtype: torch.dtype) -> None:
        self._inner, self._dtype = inner, dtype
        self.model, self.optimizer = inner.model, inner.optimizer

    @property
    def passes(self) -> int:
        return self._inner.passes

    @passes.setter
    def passes(self, count: int) -> None:
        self._inner.passes = count

    @property
    def bp_layers(self) -> int:
        return self._inner.bp_layers

    def calibrate(self, x: Any) -> Any:
        return self.encode(x)

    def encode(self, x: Any) -> Any:
        """In 16 bits, which the first layer takes."""
        kinds = isinstance(x, Tensor) and x.is_floating_point()
        return x.to(self._dtype) if kinds else x

    def __call__(self, x: Any, y: Any) -> Any:
        with self._cast():
            return self._inner(x, y)

    def mean_loss(self, losses: Any, steps: int, batch_size: int) -> Any:
        return self._inner.mean_loss(losses, steps, batch_size)

    def schedule(self, step: int, steps: int) -> None:
        self._inner.schedule(step, steps)

    def evaluate(self, x: Any, y: Tensor) -> tuple[float, float]:
        with self._cast():
            return self._inner.evaluate(x, y)

    def logits(self, x: Any) -> Tensor:
        with self._cast():
            return self._inner.logits(x).float()

    def _cast(self) -> Any:
        kind = next(self.model.parameters()).device.type
        # without a cache, whose copies of BP weights would lie beside them for a whole step
        return torch.autocast(kind, self._dtype, cache_enabled=False)
