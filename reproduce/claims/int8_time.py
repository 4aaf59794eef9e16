"""Time: float32 over integers, in one run on one machine."""

import statistics

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import SHAPE, settings, value

CLAIM = Claim(
    id="int8-time",
    text="Time of a training step, FP32 over INT8, same method, in one run on one machine",
    printed="1.38x to 1.42x",
    low=1.38,
    high=1.42,
    unit="x",
    needs="turn_seconds of a method in fp32 and int8, same batch, threads and processor, at least "
    "3 interleaved rounds (one row a round)",
    statistic="the ratio of two medians of one round; geometric mean over rounds, 95 % Student "
    "interval of the logarithms. It is of the rounds of one run: another run on the same processor "
    "may lie outside it. FP32 is the fastest way to run its step that was measured beside "
    "INT8's: as it is, in channels_last, with faster pooling, or compiled. On the machine that the "
    "rows name, since the paper's device is not known to us",
    samples="rounds",
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Round by round, in the order of the rows."""
    rounds: dict[tuple[object, ...], dict[str, list[Row]]] = {}
    for row in rows:
        if row.metric == "turn_seconds" and row.value:
            shared = tuple(row.config.get(name) for name in SHAPE)
            cell = (row.model, row.method, row.device, row.threads, row.processor, *shared)
            label = f"{row.precision}, {settings(row)}"
            rounds.setdefault(cell, {}).setdefault(label, []).append(row)
    findings = []
    for by_label in rounds.values():
        floats = [found for label, found in by_label.items() if label.startswith("fp32")]
        fastest = min(floats, key=lambda found: statistics.median(map(value, found)), default=[])
        for label, ours in by_label.items():
            pairs = list(zip(fastest, ours, strict=False))
            if not label.startswith("int8") or not pairs:
                continue
            way = fastest[0].config.get("layout", "as it is")
            threads = ours[0].threads
            findings.append(
                finding(
                    CLAIM,
                    f"{ours[0].method}, {ours[0].model}, fp32 over {label}, "
                    f"{threads} thread{'s' if threads > 1 else ''}",
                    [value(a) / value(b) for a, b in pairs],
                    full,
                    tuple(dict.fromkeys(row.case for pair in pairs for row in pair)),
                    ratio=True,
                    note=f"fp32: {way}, the fastest of {len(floats)}" if len(floats) > 1 else "",
                )
            )
    return findings
