"""Data sets, one file each.

A file defines ``NAMES`` and ``load(name, root) -> Dataset``; its docstring's first line describes
it in ``ezo list``.
"""

from ezo.data._dataset import Dataset, Scale

__all__ = ["Dataset", "Scale"]
