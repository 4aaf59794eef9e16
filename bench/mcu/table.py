"""Rows of `python -m bench.mcu` as tables for people; bytes in KiB of 1,024."""

from collections.abc import Iterable

from ezo.rows import Row

METRICS = ("ram_bytes", "arena_bytes", "stack_bytes", "flash_bytes")


def text(rows: Iterable[Row]) -> str:
    """A table of the boards, and one of the processors on which instructions are counted."""
    cases: dict[str, dict[str, Row]] = {}
    for row in rows:
        cases.setdefault(row.case, {})[row.metric] = row
    lines = [
        f"{'network':<8} {'method':<12} {'fraction':>8} {'batch':>5}  {'part':<10} {'of KiB':>7}"
        f" {'RAM':>7} {'arena':>7} {'stack':>6} {'flash':>7}"
    ]
    for found in (found for found in cases.values() if "ram_bytes" in found):
        note = found["ram_bytes"].note.split(", ")  # "of 262144", the part, the way
        sizes = [_kib(found[metric]) for metric in METRICS]
        of = int(note[0].removeprefix("of ")) / 1024
        lines.append(
            f"{_named(found['ram_bytes'])}  {note[1]:<10} {of:>7.1f} {sizes[0]:>7.1f} "
            f"{sizes[1]:>7.1f} {sizes[2]:>6.2f} {sizes[3]:>7.1f}"
        )
    lines += [
        "",
        f"{'network':<8} {'method':<12} {'fraction':>8} {'batch':>5}  {'by':<14} "
        f"{'million instructions':>20} {'code':>5} {'stack':>6}",
    ]
    for found in (found for found in cases.values() if "step_instructions" in found):
        count = found["step_instructions"]
        assert count.value is not None
        lines.append(
            f"{_named(count)}  {count.device:<14} {count.value / 1e6:>20.1f} "
            f"{_kib(found['code_bytes']):>5.1f} {_kib(found['stack_bytes']):>6.2f}"
        )
    return "\n".join(lines)


def _named(row: Row) -> str:
    fraction, batch = row.config["fraction"], row.config["batch_size"]
    return f"{row.model:<8} {row.method:<12} {fraction:>8} {batch:>5}"


def _kib(row: Row) -> float:
    assert row.value is not None
    return row.value / 1024
