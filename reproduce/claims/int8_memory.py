"""Memory: float32 over integers."""

from ezo.rows import Row
from reproduce.judge import Claim, Finding, finding
from reproduce.select import SHAPE, settings, value

CLAIM = Claim(
    id="int8-memory",
    text="Peak memory of a training step, FP32 over INT8, same method",
    printed="1.46x to 1.60x",
    low=1.46,
    high=1.60,
    unit="x",
    needs="peak_tensor_bytes of a method in fp32 and int8, same batch",
    statistic="the ratio of two exact byte counts; more than the 4 of 8 bits for 32, because an "
    "integer layer also takes its maximum or its ReLU tile by tile, so that its sums never lie in "
    "memory whole, which PyTorch's float layers let them",
    tolerance="none: the bytes are the same on every run",
    neutral=1.0,
)


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    peaks = [r for r in rows if r.metric == "peak_tensor_bytes" and r.value is not None]

    def at(row: Row) -> tuple[object, ...]:
        return (row.model, row.method, row.device, *(row.config.get(name) for name in SHAPE))

    float32 = {at(row): row for row in peaks if row.precision == "fp32"}
    return [
        finding(
            CLAIM,
            f"{row.method}, {row.model}, fp32 over {row.precision}, {settings(row)}",
            [value(float32[at(row)]) / value(row)],
            full,
            (float32[at(row)].case, row.case),
            exact=True,
        )
        for row in peaks
        if row.precision.startswith("int8") and at(row) in float32 and row.method != "inference"
    ]
