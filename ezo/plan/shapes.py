"""Models and tensors of the same shapes whose numbers don't matter."""

import copy

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_iter


def without_numbers(model: nn.Module) -> nn.Module:
    """The model with shapes for tensors, parameters, buffers and others that it holds."""
    held = [tree_iter(vars(module)) for module in model.modules()]
    tensors = [*model.parameters(), *model.buffers(), *(t for own in held for t in own)]
    memo = {id(t): shape_of(t) for t in tensors if isinstance(t, Tensor)}
    found: nn.Module = copy.deepcopy(model, memo)
    return found


def shape_of(tensor: Tensor) -> Tensor:
    """A tensor of the same shape and type; a parameter for a parameter."""
    device = "cpu" if tensor.is_meta else tensor.device
    found = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(found, requires_grad=tensor.requires_grad)
    return found
