"""What a precision makes of a model and a method: one step, to train, plan or measure with."""

import abc
from typing import Any

from torch import Tensor, nn

EVALUATION_BATCH = 256  # examples


class Impossible(ValueError):
    """The precision has no such step of this model, though it has others. A plan says so."""


class Step(abc.ABC):
    """A model, and what one step of its training does, or a pass of inference: no ``optimizer``
    then.

    All that a later step depends on is in the model's state dict and the optimiser's. ``passes``
    counts the forward passes of a batch by the steps so far.
    """

    model: nn.Module
    optimizer: Any = None
    passes: int = 0

    @property
    @abc.abstractmethod
    def bp_layers(self) -> int:
        """Parametric layers that backpropagation trains."""

    @abc.abstractmethod
    def calibrate(self, x: Any) -> Any:
        """The training inputs, as steps take them; fixes how later inputs are encoded."""

    @abc.abstractmethod
    def encode(self, x: Any) -> Any:
        """Inputs as steps take them."""

    @abc.abstractmethod
    def __call__(self, x: Any, y: Any) -> Any:
        """One step on encoded inputs and their labels; returns the loss, which sums up."""

    def stream(self, chunk: int) -> None:
        """Let layers that record no gradient take so many examples at a time (`ezo.stream`).

        Raises:
            ValueError: the precision's layers can't.
        """
        raise Impossible(
            f"expected a precision whose layers can be streamed, got {type(self).__module__}; "
            "leave out the chunk"
        )

    @abc.abstractmethod
    def mean_loss(self, losses: Any, steps: int, batch_size: int) -> Any:
        """The sum of losses that ``steps`` steps returned, as a mean in nats."""

    @abc.abstractmethod
    def schedule(self, step: int, steps: int) -> None:
        """Set the learning rates of the ``step``-th of ``steps`` steps, from 0."""

    @abc.abstractmethod
    def evaluate(self, x: Any, y: Tensor) -> tuple[float, float]:
        """Accuracy (%) and mean loss (nats) over encoded examples; weights stay as they are."""

    @abc.abstractmethod
    def logits(self, x: Any) -> Tensor:
        """Of encoded examples, at most `EVALUATION_BATCH`: (N, classes), float32."""

    def predict_alone(self) -> bool:
        """From here on `evaluate` and `logits` depend on no other example of their batch.

        Returns:
            False where the weights lack what that takes; then nothing changes.
        """
        return True

    def static_accuracy(self, x: Any, y: Tensor, seen: Any) -> float | None:
        """Accuracy (%) where each prediction is of its example alone.

        Args:
            x, y: as in `evaluate`.
            seen: encoded training examples, to calibrate by.

        Returns:
            None where `evaluate`'s is that already.
        """
        return None
