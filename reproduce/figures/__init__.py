"""Figures, one file each.

A file defines ``TITLE``, ``CAPTION`` and ``draw(frame) -> Figure | None``, where ``frame`` holds
the rows as a pandas data frame (the columns of `ezo.rows.Row`, and ``config`` flat as
``config.name``), and None says that there are no rows to draw.
"""
