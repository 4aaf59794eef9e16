"""``python -m reproduce status DIR``: what is done, what runs, and the time left."""

from pathlib import Path

from ezo import rows
from ezo.lock import held
from ezo.rows import Row
from ezo.train import Run
from reproduce import cost
from reproduce.folder import asked, has_rows, read_rows, run_rows
from reproduce.presets import PRESETS

STATES = ("finished", "diverged", "failed", "running", "stopped", "waiting")


def lines(out: Path) -> list[str]:
    """The status of a reproduction's folder as text, a line each.

    Raises:
        ValueError: ``out`` is no folder of a reproduction.
    """
    want = asked(out)
    runs = [r for found in PRESETS[want.preset].runs(want.experiments).values() for r in found]
    failed = _failed(out / "rows.jsonl")
    joined = _joined(out)
    count = dict.fromkeys(STATES, 0)
    open_runs = []
    predicted, measured, left = 0.0, 0.0, 0.0
    for run in runs:
        found = run_rows(out / "runs" / run.case)
        done = cost.share(run, found)
        state = joined.get(run.case) if not found else None
        state = state or _state(run, out, found, failed)
        count[state] += 1
        if state in ("running", "stopped"):
            open_runs.append(f"  {state:<8} {done:4.0%}  {run.case}")
        seconds = [row.value for row in found if row.metric == "train_seconds" and row.value]
        if seconds:
            measured += seconds[-1]
            predicted += done * cost.seconds(run) / cost.EVALUATION
        if state in ("running", "stopped", "waiting"):
            left += (1 - done) * cost.seconds(run)
    pace = measured / predicted if predicted else 1.0
    text = [
        f"preset {want.preset}" + (f": {', '.join(want.experiments)}" if want.experiments else ""),
        ", ".join(f"{n} {state}" for state, n in count.items() if n) + f"; {len(runs)} runs",
        *open_runs,
    ]
    if left:
        basis = f"{pace:.2f} of the predicted time so far" if predicted else "predicted"
        text.append(
            f"left: about {cost.clock(left * pace / want.jobs)}, {want.jobs} jobs ({basis})"
        )
    text += [f"  failed: {row.case}: {row.note}" for row in failed.values()]
    return text


def _joined(out: Path) -> dict[str, str]:
    """How runs ended whose rows were joined from elsewhere."""
    if not has_rows(out):
        return {}
    return {r.case: r.metric for r in read_rows(out) if r.metric in ("finished", "diverged")}


def _state(run: Run, out: Path, found: list[Row], failed: dict[str, Row]) -> str:
    if found and found[-1].metric in ("finished", "diverged"):
        return found[-1].metric
    if held(out / "runs" / run.case):
        return "running"
    if run.case in failed:
        return "failed"
    return "stopped" if found else "waiting"


def _failed(path: Path) -> dict[str, Row]:
    found = rows.read(path) if path.exists() else []
    return {row.case: row for row in found if row.metric == "failed"}
