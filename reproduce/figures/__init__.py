"""Figures, one file each.

A file defines ``TITLE``, ``CAPTION`` and ``draw(frame) -> Figure | None``, where ``frame`` is
`reproduce.frame.frame` of the rows, and None says that there are no rows to draw.
"""

import os

os.environ["MPLBACKEND"] = "Agg"  # a notebook's would ask for a package of its own
