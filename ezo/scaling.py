"""Learning rates that follow the size of g: Adam's second moment, of zeroth order."""

import math
from collections.abc import Mapping
from typing import Any

from ezo import check
from ezo.optim import ElasticZO
from ezo.weights import Update


class RMSScaling:
    """Multiplies the ZO weights' learning rate by what g was at first over what it is now.

    Adam divides each weight's step by the root of a running mean of its squared gradients. With g z
    for a gradient that mean is g^2 times what z^2 averages to, 1, so that it is one number for all
    weights and needs no memory:

        v    <- beta v + (1 - beta) g^2
        rms  =  sqrt(v / (1 - beta^t))                     t: estimates so far
        lr   <- lr * rms of the first ``reference`` steps / rms

    So a learning rate that suits the beginning stays as large a step in the weights while g falls.
    Other schedulers of torch's that multiply rates may run beside it. BP's groups and nodes' stay
    as they are.

    Args:
        optimizer: in float arithmetic.
        beta: of the running mean, 0 to below 1.
        reference: steps that say what g is at first, in which nothing is scaled; 1 or more.

    Raises:
        ValueError: an argument is out of range, or the optimiser has no ZO weights.

    >>> import torch
    >>> from torch import nn
    >>> import ezo
    >>> model = nn.Linear(4, 2)
    >>> optimizer = ezo.ElasticZO(model, bp=0, lr=1e-3)
    >>> scaling = ezo.RMSScaling(optimizer)
    >>> loss = optimizer.step(lambda: model(torch.ones(8, 4)).square().mean())
    >>> scaling.step()
    >>> scaling.factor
    1.0
    """

    def __init__(self, optimizer: ElasticZO, beta: float = 0.999, reference: int = 100) -> None:
        check.expect("beta", beta, check.finite(beta) and 0 <= beta < 1, "0 to below 1")
        check.integer("reference", reference, 1)
        self.optimizer, self.beta, self.reference = optimizer, beta, reference
        if not any(group["params"] for group in self._groups()):
            raise ValueError(
                "expected an optimiser with weights that zeroth order trains, got none; lower bp"
            )
        self.square, self.estimates, self.steps = 0.0, 0, 0
        self.first: float | None = None
        self.factor = 1.0

    def step(self) -> None:
        """After each step of the optimiser's, and before other schedulers' steps."""
        found = [g for applied in self.optimizer.applied for u in applied for g in self._slopes(u)]
        for g in found:
            self.square = self.beta * self.square + (1 - self.beta) * g * g
            self.estimates += 1
        if not found:  # the loss was not finite, or the rate was 0
            return
        self.steps += 1
        rms = math.sqrt(self.square / (1 - self.beta**self.estimates))
        if self.steps == self.reference:
            self.first = rms
        if self.first is None or not rms:
            return
        before, self.factor = self.factor, self.first / rms
        for group in self._groups():
            group["lr"] = group["lr"] * (self.factor / before)

    def _slopes(self, update: Any) -> list[float]:
        """g of a query, of the first group whose rate shows it."""
        if not isinstance(update, Update):
            return []
        queries = len(self.optimizer.applied)
        for group, (_, rate, _) in zip(self._groups(), update.groups, strict=True):
            if lr := float(group["lr"]):
                return [float(rate) * queries / lr]
        return []

    def _groups(self) -> list[dict[str, Any]]:
        """Of ZO weights; the optimiser makes them anew where it loads a state."""
        groups = self.optimizer.param_groups
        return [group for group in groups if group.get("zo") and "sigma" not in group]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes; the rates are the optimiser's to keep."""
        own = ("square", "estimates", "steps", "first", "factor")
        return {name: getattr(self, name) for name in own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state.

        Raises:
            ValueError: it is another's.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(
                f"expected the state of RMSScaling, {', '.join(self.state_dict())}, got "
                f"{', '.join(map(str, state)) or 'nothing'}"
            )
        vars(self).update(state)
