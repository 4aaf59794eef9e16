"""What the gate found: its exit status, rows, JSON, and a summary in Markdown."""

import dataclasses
import json
from dataclasses import dataclass, field

from bench.gate.judging import CONFIDENCE, NOT_MEASURED, OK, REGRESSED, Finding
from bench.gate.sides import Side
from ezo.rows import Row, provenance


@dataclass
class Report:
    """What was found, and what it comes to."""

    sides: dict[str, Side] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    error: str = ""

    @property
    def status(self) -> int:
        """0, 1 where anything regressed, else 2 where anything could not be measured."""
        statuses = {finding.status for finding in self.findings}
        if REGRESSED in statuses or self._lost_kernels():
            return REGRESSED
        return NOT_MEASURED if self.error or NOT_MEASURED in statuses or not statuses else OK

    def _lost_kernels(self) -> bool:
        kernels = {label: side.kernels for label, side in self.sides.items()}
        return kernels.get("head") == "reference" != kernels.get("base")

    def rows(self) -> list[Row]:
        """Both sides' values, and their ratio."""
        found = []
        for f in self.findings:
            for label, value in (("base", f.base), ("head", f.head)):
                if isinstance(value, (int, float)):
                    unit = "B" if f.metric == "peak_tensor_bytes" else "s"
                    row = f.cell.row(f.metric, value, unit, label)
                    side = self.sides[label]
                    found.append(dataclasses.replace(row, commit=side.commit, dirty=side.dirty))
            if f.interval is not None:
                note = f"{CONFIDENCE:.0%} interval {f.interval.low:.4f} to {f.interval.high:.4f}"
                found.append(f.cell.row("step_head_over_base", f.interval.ratio, "1", note))
        return found

    def json(self) -> str:
        """Everything, for programs."""
        sides = {
            label: {"commit": side.commit, "dirty": side.dirty, "kernels": side.kernels}
            for label, side in self.sides.items()
        }
        findings = [
            {**dataclasses.asdict(f), "cell": f.cell.name, "ratio": f.interval and f.interval.ratio}
            for f in self.findings
        ]
        rows = [json.loads(row.json()) for row in self.rows()]
        content = {"status": self.status, "error": self.error, "sides": sides}
        content |= {"machine": provenance(), "findings": findings, "rows": rows}
        return json.dumps(content, indent=1) + "\n"

    def markdown(self) -> str:
        """A summary for a pull request: what needs a look first, all the rest below."""
        verdict = {OK: "nothing regressed", REGRESSED: "regressed", NOT_MEASURED: "not measured"}
        lines = [f"### Benchmark gate: {verdict[self.status]}", ""]
        if self.error:
            lines += [self.error, ""]
        for label, side in self.sides.items():
            state = " with changes" if side.dirty else ""
            lines.append(f"- {label}: `{side.commit[:10]}`{state}, kernels {side.kernels}")
        if self._lost_kernels():
            lines.append("- **head has no compiled kernels and base has: its build lost them**")
        loud = [f for f in self.findings if f.status or f.note]
        quiet = [f for f in self.findings if f not in loud]
        lines += ["", *_table(loud)] if loud else []
        if quiet:
            lines += ["", f"<details><summary>{len(quiet)} comparisons as before</summary>", ""]
            lines += [*_table(quiet), "", "</details>"]
        return "\n".join(lines) + "\n"


def _table(findings: list[Finding]) -> list[str]:
    lines = ["| cell | what | base | head | ratio | verdict |", "|---|---|--:|--:|--:|---|"]
    for f in findings:
        mark = {OK: "", REGRESSED: "❌ ", NOT_MEASURED: "❔ "}[f.status]
        mark = "⚠️ " if f.verdict == "suspicious" else mark
        note = f": {f.note}" if f.note else ""
        note = " ".join(note.replace("|", "\\|").split())
        lines.append(
            f"| {f.cell.name} | {f.metric} | {_shown(f.base)} | {_shown(f.head)} | "
            f"{f.interval or ''} | {mark}{f.verdict}{note} |"
        )
    return lines


def _shown(value: float | str | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value[:10]
    return f"{value:,}" if isinstance(value, int) else f"{1e3 * value:.3f} ms"
