"""Models, one file each.

A file defines ``NAMES``, ``INPUT`` (``image`` or ``points``) and ``build(name, classes, channels)
-> nn.Module``; its docstring's first line describes it in ``ezo list``. Initial weights come from
torch's generator, which the caller forks and seeds (see `ezo.train.build`). A ``build`` with a
fourth parameter, ``size``, is told the images' (height, width). ``IMAGE`` may say the
(channels, height, width) of the images that a step is measured with, where it isn't (1, 28, 28).
"""
