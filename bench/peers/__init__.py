"""What ours is measured against: other projects' steps, one file each.

A file defines ``NAMES`` and ``step(name, model, closure)``, which returns the function that does
one step and returns the loss; the closure computes the loss and leaves ``backward`` to the step.
A peer whose package is not installed raises `ModuleNotFoundError` there. One that does ZO steps
also defines ``make_step(model, lr, eps, seed)`` for `ezo.conformance`.
"""

import functools

from ezo import catalogue

names = functools.partial(catalogue.names, __name__)
find = functools.partial(catalogue.find, __name__)
