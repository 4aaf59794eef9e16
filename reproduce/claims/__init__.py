"""Claims, one file each.

A file defines ``CLAIM``, a `reproduce.judge.Claim`, and ``judge(rows, full) -> list[Finding]``,
which reads the rows of a reproduction and says what they show; an empty list says that there are
none. ``full`` is False for a reduced preset, which gives verdicts on what is exact, and otherwise
indications (`reproduce.judge.finding` sees to it).
"""
