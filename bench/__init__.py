"""Measuring: memory and time of a training step, as rows.

One file per benchmark. A file defines ``cases(given)``, what it can measure, and ``measure(case)``,
which returns rows; ``python -m bench run NAME --out DIR`` runs each case in a process of its own.
"""
