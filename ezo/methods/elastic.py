"""ElasticZO: the last k parametric layers by backpropagation, those before by zeroth order."""

from torch import nn
from torch.optim import Optimizer

from ezo.catalogue import number
from ezo.methods import BP, ZO, Hyper, Parts
from ezo.nodes import Nodes
from ezo.optim import ElasticZO

NAMES = ("elastic-<k>",)
HYPER = Hyper()
READS = ZO | BP | {"bp_gradient"}


def optimizer(name: str, model: nn.Module, hyper: Hyper, seed: int) -> Optimizer:
    """``elastic-k``: two passes a step, and the backward pass of the last k layers."""
    return elastic(number(name), model, hyper, seed)


def elastic(
    k: int, model: nn.Module, hyper: Hyper, seed: int, *, nodes: type[Nodes] | None = None
) -> Optimizer:
    """`ElasticZO` with k BP layers, set up from ``hyper``, with ``nodes`` or none."""
    decay = hyper.weight_decay
    made = nodes(hyper.lr_node, sigma=hyper.sigma, weight_decay=decay) if nodes else False
    return ElasticZO(
        model,
        k,
        lr=hyper.lr,
        eps=hyper.eps,
        bp_optimizer=hyper.sgd(),
        clip=hyper.clip,
        weight_decay=decay,
        queries=hyper.queries,
        noise=hyper.noise,
        bp_gradient=hyper.bp_gradient,
        nodes=made,
        seed=seed,
    )


def parts(name: str) -> Parts:
    """The last k layers by BP, the others by ZO."""
    return Parts(number(name))
