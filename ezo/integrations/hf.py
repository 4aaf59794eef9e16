"""Hugging Face's ``Trainer`` with an ElasticZO step. Needs transformers and accelerate."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ezo.data._files import extra
from ezo.data._vision import import_torchvision
from ezo.optim import ElasticZO

extra("accelerate", "hf")
with contextlib.suppress(ModuleNotFoundError):
    import_torchvision()  # which transformers imports, but not where it was built for another torch
_transformers: Any = extra("transformers", "hf")


class ElasticTrainer(_transformers.Trainer):
    """A ``Trainer`` that steps by `ezo.ElasticZO`; everything else is the Trainer's own.

    The Trainer's ``training_step`` computes each loss, with its autocast, its collator and its
    ``compute_loss``; what it would backpropagate goes to the step. With
    ``gradient_accumulation_steps`` the micro-batches are parts of one step's closure. The scheduler
    drives the rates of both parts. Checkpoints hold the optimiser's state and resume.

    Args:
        arguments, named: the Trainer's.
        elastic: `ElasticZO`'s arguments but the model. ``bp`` is needed; ``lr``, ``weight_decay``
            and ``seed`` are by default the ``TrainingArguments``'.

    ``max_grad_norm`` has no use, as no gradient is left when a step is done: give ``clip`` in
    ``elastic``, and a ``bp_optimizer`` that clips.

    Raises:
        ValueError: ``bp`` is missing, or fp16 or several GPUs are asked for.
    """

    def __init__(self, *arguments: Any, elastic: Mapping[str, Any], **named: Any) -> None:
        if "bp" not in elastic:
            raise ValueError(
                f"expected elastic to say where BP begins, got {', '.join(elastic) or 'nothing'}; "
                "give elastic={'bp': 1}, or the name of a module"
            )
        super().__init__(*arguments, **named)
        if self.args.fp16:
            raise ValueError("expected no loss scaling, got fp16=True; give bf16=True")
        if self.args.n_gpu > 1:
            raise ValueError(
                f"expected one GPU, got {self.args.n_gpu} of one process; set CUDA_VISIBLE_DEVICES"
            )
        self.args.max_grad_norm = 0.0
        self._elastic = dict(elastic)
        self._parts: list[tuple[Any, Any]] = []  # the step's micro-batches so far

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The `ElasticZO` of the model."""
        if self.optimizer is None:
            given = {
                "lr": self.args.learning_rate,
                "weight_decay": self.args.weight_decay,
                "seed": self.args.seed,
            }
            self._stepper = _Stepper(model or self.model, **{**given, **self._elastic})
            self.optimizer: Any = self._stepper
        return self.optimizer

    def training_step(
        self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None
    ) -> Tensor:
        """A step, when the last micro-batch of it is there; returns its loss, before that 0."""
        self._parts.append((inputs, num_items_in_batch))
        if not self.accelerator.sync_gradients:
            return torch.zeros((), device=self.args.device)
        parts, self._parts = self._parts, []

        def closure() -> Iterator[Tensor]:
            for part in parts:
                yield self._loss(model, *part)

        loss: Tensor = self._stepper.elastic_step(closure)
        return loss

    def _loss(self, model: nn.Module, inputs: Any, num_items_in_batch: Any) -> Tensor:
        """What the Trainer would backpropagate."""
        found: list[Tensor] = []
        backward = self.accelerator.backward
        self.accelerator.backward = lambda loss, **_: found.append(loss)
        try:
            super().training_step(model, inputs, num_items_in_batch)
        finally:
            self.accelerator.backward = backward
        return found[0]


class _Stepper(ElasticZO):
    """The step is done within ``training_step``; that of the Trainer, later, has nothing to do."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        return None

    step.hooked = True  # type: ignore[attr-defined]

    def elastic_step(self, closure: Callable[[], Any]) -> Any:
        return super().step(closure)
