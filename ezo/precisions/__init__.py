"""Number formats to train in, one file each.

A file defines ``NAMES``, ``HYPER`` (the dataclass of its hyperparameters, each a field with
``help``), and

    default(method) -> HYPER             values for a method where none were tuned
    reads(method) -> frozenset           names of those that change what the method does
    check(method, hyper) -> None         ValueError: the method has no such form, or a bad value
    trainer(name, model, data, method, hyper, seed, device) -> Trainer

where ``model`` is the float model at its initial weights. For ``ezo plan`` it defines too

    FORMS: tuple                         names of the forms of a step that differ in memory and
                                         time, the usual one first; one empty name for no choice
    weighted(model) -> list              names of the layers that a split counts, in order
    prepare(name, model, inputs, bp_layers, form, loss, bp_optimizer) -> (model, step)
                                         a step without a data set, of inference where bp_layers
                                         is None; ValueError: the model has no such step

and the tensors that ``prepare`` gets and makes have shapes, but no numbers (`ezo.plan`). Its
docstring's first line describes it in ``ezo list``. The training loop and the plan know nothing
else of a precision.
"""

from ezo.precisions._trainer import EVALUATION_BATCH, Trainer

__all__ = ["EVALUATION_BATCH", "Trainer"]
