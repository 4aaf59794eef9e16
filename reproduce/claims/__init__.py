"""Claims, one file each.

A file defines ``CLAIM``, a `Claim`, and ``judge(rows, full) -> list[Finding]``, which reads the
rows of a reproduction and says what they show. ``full`` is False for a reduced preset, which gives
indications and never verdicts (`reproduce.judge.finding` sees to it).
"""
