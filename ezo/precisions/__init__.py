"""Number formats to train in, one file each.

A file defines ``NAMES``, ``HYPER`` (the dataclass of its hyperparameters, each a field with
``help``), and

    default(method) -> HYPER             values for a method, or inference, where none were tuned
    reads(method) -> frozenset           names of those that change what the method does
    check(method, hyper) -> None         ValueError: the method has no such form, or a bad value
    layers(model) -> list                names of the parametric layers, in order
    make_step(name, model, method, hyper, seed=0, *, device, loss, bp_optimizer, ranks,
              estimator) -> Step

where ``model`` is the float model at its initial weights. `make_step` is the one place where a step
is made, for training, plans and measurements alike:

    name, method     as ``ezo list`` shows them; a method of None is a pass of inference
    device           where to train; None for where the model lies
    loss             of the model's output and the labels; None for cross-entropy
    bp_optimizer     makes the BP part's optimiser; None for the one that the hyperparameters set
    ranks            the ranks that train together (`ezo.ranks`); False for one process
    estimator        of the loss's change (`ezo.estimators`), by name
    ValueError       the precision has no such step; says why

Its docstring's first line describes it in ``ezo list``.
"""

from ezo.precisions._step import EVALUATION_BATCH, Impossible, Step

__all__ = ["EVALUATION_BATCH", "Impossible", "Step"]
