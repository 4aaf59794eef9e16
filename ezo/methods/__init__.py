"""Training methods, one file each.

A file defines ``NAMES``, ``HYPER`` (its default hyperparameters), ``READS`` (the names of those
that change what it does: ``ZO``, ``BP``, and more) and ``optimizer(name, model, hyper, seed) ->
Optimizer``, whose ``step(closure)`` trains ``model``, where the closure computes the loss and
leaves ``backward`` to the step. It may change ``model``, for example freeze layers. Its docstring's
first line describes it in ``ezo list``. Names count BP layers.

These four are about fp32. For other precisions a file also defines ``parts(name) -> Parts``; one
without it has no form in them.
"""

from ezo.methods._hyper import BP, NODES, ZO, Hyper
from ezo.methods._parts import Parts

__all__ = ["BP", "NODES", "ZO", "Hyper", "Parts"]
