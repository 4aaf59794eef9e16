"""Estimators of how the loss changes along a perturbation e, one file each.

A file defines ``NAMES``, ``POINTS``, where a query takes its losses, and

    difference(losses) -> change

the loss's change over a span of 2 e, from the losses at its points: ``losses[p]`` is that at theta
+ p e. It is pure arithmetic, and so holds for integers, floats and tensors, for the mean loss and
for a vector of losses per example alike. Points are of 1, 0 and -1, in the order of the passes. The
loss at 0 is that of theta, and computed once a step for all queries. Its docstring's first line
describes it in ``ezo list``.
"""
