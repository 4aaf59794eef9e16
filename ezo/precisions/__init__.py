"""Number formats to train in, one file each.

A file defines ``NAMES``, ``HYPER`` (the dataclass of its hyperparameters, each a field with
``help``), and

    default(method) -> HYPER             values for a method where none were tuned
    reads(method) -> frozenset           names of those that change what the method does
    check(method, hyper) -> None         ValueError: the method has no such form, or a bad value
    trainer(name, model, data, method, hyper, seed, device) -> Trainer

where ``model`` is the float model at its initial weights. Its docstring's first line describes it
in ``ezo list``. The training loop knows nothing else of a precision.
"""

from ezo.precisions._trainer import EVALUATION_BATCH, Trainer

__all__ = ["EVALUATION_BATCH", "Trainer"]
