"""Initial weights."""

import functools
from collections.abc import Callable

from torch import Tensor, nn


def xavier(model: nn.Module) -> nn.Module:
    """Xavier uniform weights and zero biases (Glorot and Bengio 2010); returns the model.

    The paper leaves initialisation open, and ZO depends on it: torch's default shrinks the signal
    from layer to layer, and full ZO then spends its first epochs on a plateau.
    """
    return _filled(model, nn.init.xavier_uniform_)


def he(model: nn.Module) -> nn.Module:
    """He uniform weights and zero biases (He et al. 2015); returns the model.

    A ReLU halves the signal's variance, which these weights double: without batch norm it comes
    through many layers as large as it was.
    """
    return _filled(model, functools.partial(nn.init.kaiming_uniform_, nonlinearity="relu"))


def _filled(model: nn.Module, fill: Callable[[Tensor], Tensor]) -> nn.Module:
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            fill(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
