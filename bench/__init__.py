"""Measuring: memory and time of a training step, as rows.

One file per benchmark. A file defines ``METHODS``, those that it measures where none are named, and
``measure(case)``, which returns rows; ``python -m bench run NAME --out DIR`` runs each case in a
process of its own. A case is a frozen dataclass with a ``name``, by default a
`bench.workload.Workload`; of its fields ``precision``, ``threads``, ``device`` and ``data`` the
grid sets those that it has.

A file may define more: ``cases(model, method, batch_size)``, its own kind of cases; ``COST``, which
predicts how long one takes as (seconds, steps), or else ``seconds(case)``, and after
``LIMIT_SECONDS`` it is stopped; ``MODELS`` and ``BATCH_SIZES``, by model, are the grid's where the
caller names none; where ``SIDE_BY_SIDE`` is true, neighbours don't disturb it, and cells may run on
all cores; ``SMOKE`` holds arguments of ``measure`` that make a cell short for ``python -m bench
smoke``; ``table(rows)`` is printed at the end of a run, and kept beside the rows as ``NAME.md``.
"""
