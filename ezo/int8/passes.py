"""The passes of an integer step: the closure's losses, and the BP layers' gradients."""

from collections.abc import Callable
from types import GeneratorType
from typing import Any

import torch
from torch import Tensor

from ezo import kernels
from ezo.int8.loss import BatchLoss, RanksLoss
from ezo.int8.tensor import Int8Tensor
from ezo.phases import phase
from ezo.step import Course, Visit

ERROR_STREAM = 1 << 31  # the noise stream that rounds the logits' error
MINUS_STREAM = ERROR_STREAM + 1  # the same, at theta - z


class Passes:
    """Runs the closure, and takes the BP layers' gradients, of a `ezo.step.Passes`' face."""

    def __init__(self, of: Any, closure: Callable[[], BatchLoss], way: Course) -> None:
        self._closure, self._model, self._layers = closure, of._model, of._bp_layers
        self._seed, self._step, self._last = of._seed, of._steps, way.visits[-1].query
        self._many = way.taken > 2
        self._exchange, self._rank, self._size = of.exchange, 0, 1
        if of.exchange is not None and of.exchange.by_example:
            self._rank, self._size = of.exchange.rank, of.exchange.size

    def together(self, taken: list[tuple[Visit, BatchLoss]]) -> list[tuple[Visit, Any]]:
        """Of all ranks' passes: the sums over the ranks, or the passes that each of them made."""
        if self._exchange is None:
            return taken
        own = taken[0][1].examples
        visits = [visit for visit, _ in taken]
        sums = self._exchange.together(visits, [loss.total() for _, loss in taken], own)
        return [
            (visit, RanksLoss(total, own * self._size, taken[0][1].UNIT)) for visit, total in sums
        ]

    def finite(self, losses: list[BatchLoss]) -> bool:
        return True

    def loss(self, visit: Visit) -> BatchLoss:
        """The closure's loss; where ``visit.bp``, its gradient is added to the BP layers'."""
        if not visit.bp:
            return self._run()
        bp = len(self._layers)
        self._model.keep(bp)
        try:
            loss = self._run()
            with phase("backward"):
                error = loss.gradient(self._words(loss.output.m, visit))
                self._model.backward(error, bp)
        finally:
            self._model.keep(0)
        for layer in self._layers if self._many else ():
            layer.weight_gradient = _wide(layer.weight_gradient)
            layer.bias_gradient = _wide(layer.bias_gradient)
        return loss

    def _run(self) -> BatchLoss:
        with phase("forward"):
            loss = self._closure()
        if isinstance(loss, BatchLoss):
            return loss
        if isinstance(loss, GeneratorType):
            raise ValueError(
                "expected the closure to return an ezo.int8.Loss, got a generator; give the batch "
                "whole: its activations share their exponents, so micro-batches would be another "
                "step"
            )
        raise ValueError(
            f"expected the closure to return an ezo.int8.Loss, got {type(loss).__name__}; return "
            "Loss(model(x), y) itself, not its mean()"
        )

    def _words(self, like: Tensor, visit: Visit) -> Tensor:
        """What rounds the error: each pass of a step has its own, as counted from the last."""
        side = MINUS_STREAM if visit.point == -1 else ERROR_STREAM
        stream = side + 2 * (self._last - visit.query)
        place = (self._seed, self._step, stream)
        n, before = like.numel(), like.numel() * self._rank  # of the whole batch's words
        return kernels.words(place, before + n, like.device)[before:].view(like.shape)


def _wide(gradient: Int8Tensor | None) -> Int8Tensor | None:
    """In int64, which holds a sum over any number of passes."""
    if gradient is None or gradient.m.dtype == torch.int64:
        return gradient
    return Int8Tensor(gradient.m.to(torch.int64), gradient.e)
