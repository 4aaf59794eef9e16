"""``python -m reproduce --preset smoke|quick|paper --out DIR``: run, judge, draw, report."""

import argparse
import json
import sys
from pathlib import Path

from joblib import Parallel, delayed
from tqdm import tqdm

from bench import memory
from bench.isolate import measure_alone
from ezo import rows
from reproduce.execute import execute
from reproduce.presets import PRESETS, Preset


def main() -> int:
    """The command line; returns 0, or 1 when a run failed or diverged."""
    parser = argparse.ArgumentParser(
        prog="python -m reproduce",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run a preset, judge the claims, draw the figures, write the report. A run "
        "that was stopped goes on where it was.\n\n"
        + "\n".join(f"{n}: {p.about}" for n, p in PRESETS.items()),
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--preset", choices=PRESETS, help="what to run")
    what.add_argument(
        "--redraw", type=Path, metavar="DIR", help="make the report in DIR again, from its rows"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for rows, figures and report (default: reports/PRESET)"
    )
    parser.add_argument(
        "--data-root", type=Path, help="folder of the data sets (default: EZO_DATA, else data)"
    )
    parser.add_argument(
        "--jobs", type=int, default=2, help="training runs side by side (default: 2)"
    )
    parser.add_argument("--device", default="cpu", help="where to train (default: cpu)")
    given = parser.parse_args()
    if given.redraw:
        out, name = given.redraw, json.loads((given.redraw / "preset.json").read_text())["preset"]
    else:
        name = given.preset
        out = given.out or Path("reports") / name
        out.mkdir(parents=True, exist_ok=True)
        (out / "preset.json").write_text(json.dumps({"preset": name}) + "\n")
        _run(PRESETS[name], out, given)
    from reproduce import report  # drawing is slow to import, and every measuring process would

    findings = report.write(out, name, PRESETS[name].about, PRESETS[name].full)
    for finding in findings:
        value = "-" if finding.value is None else f"{finding.value:+.3f}"
        print(f"{finding.claim:<18} {finding.comparison:<52} {value:>10}  {finding.verdict}")
    print(f"report: {out / 'report.html'}")
    bad = [r for r in rows.read(out / "rows.jsonl") if r.metric in ("failed", "diverged")]
    for row in bad:
        print(f"{row.case}: {row.metric}: {row.note}", file=sys.stderr)
    return 1 if bad else 0


def _run(preset: Preset, out: Path, given: argparse.Namespace) -> None:
    """Measure memory, then train; ``rows.jsonl`` grows as runs end, and is put in order last."""
    path = out / "rows.jsonl"
    cells = memory.cases(preset.memory_models, None, 32)
    runs = preset.runs()
    measured = []
    with tqdm(total=len(cells) + len(runs), unit="case") as bar:
        alone = Parallel(given.jobs, prefer="threads", return_as="generator_unordered")
        bar.set_description("memory")
        for cell_rows in alone(delayed(measure_alone)("memory", cell) for cell in cells):
            measured.append(cell_rows)
            bar.update()
        bar.set_description("training")
        for run_rows in execute(
            runs, out / "runs", root=given.data_root, jobs=given.jobs, device=given.device
        ):
            measured.append(run_rows)
            rows.write(path, (row for part in measured for row in part))
            bar.update()
    order = {case.name: i for i, case in enumerate(cells)} | {
        run.case: len(cells) + i for i, run in enumerate(runs)
    }
    measured.sort(key=lambda part: order[part[0].case])
    rows.write(path, (row for part in measured for row in part))


if __name__ == "__main__":
    sys.exit(main())
