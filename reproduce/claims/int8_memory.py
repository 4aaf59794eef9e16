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
    needs="peak_tensor_bytes and heap_peak_bytes of a method in fp32 and int8, same batch",
    statistic="the ratio of two exact byte counts; of the heap's, which hold a few KB of Python's "
    "objects, where it says heap. Both whole: every layer of both takes the whole "
    "batch at once. Both streamed: the layers trained by ZO take a few examples at a time in both. "
    "As installed: an integer layer also takes its maximum or its ReLU tile by tile, so that its "
    "accumulators never lie in memory whole, and PyTorch's float layers don't; this measures more "
    "than the number format",
)


WHOLE = "fp32_bytes_over_int8-whole"  # what bench.precisions calls the ratio
STREAMED = "chunk"  # in the config of a cell whose front is streamed: examples at a time
METRICS = {"peak_tensor_bytes": "", "heap_peak_bytes": ", heap"}


def judge(rows: list[Row], full: bool) -> list[Finding]:
    """Exact, so that one measurement is enough."""
    peaks = [r for r in rows if r.metric in METRICS and r.value and r.method != "inference"]

    def at(row: Row) -> tuple[object, ...]:
        shape = (row.config.get(name) for name in (*SHAPE, STREAMED))
        return (row.metric, row.model, row.method, row.device, *shape)

    float32 = {at(row): row for row in peaks if row.precision == "fp32"}
    found: dict[str, tuple[float, tuple[str, ...]]] = {}
    for row in peaks:
        if row.precision.startswith("int8") and at(row) in float32:
            how = "both streamed" if row.config.get(STREAMED) else "as installed"
            other = float32[at(row)]
            compared = _compared(row, how + METRICS[row.metric])
            found[compared] = (value(other) / value(row), (other.case, row.case))
    for row in rows:
        if row.metric == WHOLE and row.value and row.threads == 1:
            found[_compared(row, "both whole")] = (value(row), (row.case,))
    return [
        finding(CLAIM, comparison, [ratio], full, cases, exact=True)
        for comparison, (ratio, cases) in found.items()
    ]


def _compared(row: Row, how: str) -> str:
    return f"{row.method}, {row.model}, fp32 over {row.precision}, {how}, {settings(row)}"
