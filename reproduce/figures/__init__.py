"""Figures, one file each.

A file defines ``TITLE``, ``CAPTION`` and ``draw(frame) -> Figure | None``, where ``frame`` is
`reproduce.frame.frame` of the rows, and None says that there are no rows to draw. ``OPENING``, a
number, puts it among those that the report opens with, in that order.
"""

import os

os.environ["MPLBACKEND"] = "Agg"  # a notebook's would ask for a package of its own
