"""Initial weights."""

from torch import nn


def xavier(model: nn.Module) -> nn.Module:
    """Xavier uniform weights and zero biases (Glorot and Bengio 2010); returns the model.

    The paper leaves initialisation open, and ZO depends on it: torch's default shrinks the signal
    from layer to layer, and full ZO then spends its first epochs on a plateau.
    """
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d)):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model
