"""``python -m reproduce --preset smoke|quick|paper --out DIR``: run, judge, draw, report."""

import argparse
import sys
from pathlib import Path

from bench import engines
from ezo import check
from ezo.cli import joined
from ezo.files import run_command
from ezo.lock import alone_in
from reproduce.folder import Request, asked, read_rows
from reproduce.presets import PRESETS


def main() -> int:
    """The command line; returns 0, 1 when a run failed or diverged, or 2 for unusable arguments."""
    words = sys.argv[1:]
    work = {"status": _status, "merge": _merge}.get(words[0]) if words else None
    stopped = "stopped; the same command goes on from here"
    if work is None:
        return run_command("reproduce", lambda: _reproduce(words), stopped, workers=True)
    return run_command("reproduce", lambda: work(words[1:]), stopped)


def _reproduce(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Run a preset, judge the claims, draw the figures, write the report. A run "
        "that was stopped goes on where it was.\n\n"
        + "\n".join(
            f"{name}: {preset.about} Experiments: {', '.join(preset.experiments)}."
            for name, preset in PRESETS.items()
        )
        + "\n\nAlso: `python -m reproduce status DIR` and `python -m reproduce merge DIR... "
        "--out DIR`; each has --help.",
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--preset", choices=PRESETS, help="what to run")
    what.add_argument(
        "--redraw", type=Path, metavar="DIR", help="make the report in DIR again, from its rows"
    )
    parser.add_argument(
        "--experiments",
        nargs="+",
        default=[],
        metavar="NAME",
        help="only these of the preset, without its measurements (default: all)",
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
    parser.add_argument("--engine", default=engines.USUAL, help=f"{engines.HELP} (default: joblib)")
    parser.add_argument(
        "--device",
        default="cpu",
        help="where to train; memory and time are measured on the CPU all the same (default: cpu)",
    )
    parser.add_argument(
        "--again", action="store_true", help="do again what lies in --out and other code made"
    )
    given = parser.parse_args(list(joined(words)))
    if given.redraw:
        asked(given.redraw)  # before a folder is made
        with alone_in(given.redraw):
            return _report(given.redraw)
    known = PRESETS[given.preset].experiments
    for name in given.experiments:
        if name not in known:
            parser.error(
                f"unknown experiment '{name}' of {given.preset}; known: {', '.join(known)}"
            )
    check.jobs(given.jobs)
    check.device(given.device)
    engines.check(given.engine)
    from reproduce import driver, report  # slow to import, and `status` need not

    out = given.out or Path("reports") / given.preset
    want = Request(given.preset, tuple(given.experiments), given.jobs)
    with alone_in(out):
        want.write(out)
        report.check(out)
        how = {"root": given.data_root, "device": given.device, "engine": given.engine}
        note = driver.run(want, out, again=given.again, **how)
        ended = _report_at_last(out)
    if note:
        print(f"reproduce: {note}", file=sys.stderr)
    return ended


def _report_at_last(out: Path) -> int:
    try:
        return _report(out)
    except Exception as error:
        print(
            f"reproduce: the report failed, {type(error).__name__}: {error}; every row is in "
            f"{out / 'rows.jsonl'}. Then: python -m reproduce --redraw {out}",
            file=sys.stderr,
        )
        return 2


def _report(out: Path) -> int:
    # Drawing is slow to import, and every measuring process would.
    from reproduce import report, tables

    want = asked(out)
    findings = report.write(out, want.preset, PRESETS[want.preset])
    claims = {module.CLAIM.id: module.CLAIM for module in report.claims()}
    found = [
        (f.claim, f.comparison, tables.estimate(claims[f.claim], f), f.verdict) for f in findings
    ]
    widths = [max(map(len, column)) for column in zip(*found, strict=True)]
    for line in found:
        print("  ".join(f"{text:<{n}}" for text, n in zip(line, widths, strict=True)).rstrip())
    print(f"report: {out / 'report.html'}")
    bad = [row for row in read_rows(out) if row.metric in ("failed", "diverged")]
    for row in bad:
        print(f"{row.case}: {row.metric}: {row.note}", file=sys.stderr)
    return 1 if bad else 0


def _status(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce status",
        description="What is done, what runs and how long the rest will take; also while it runs.",
    )
    parser.add_argument("folder", type=Path, help="the --out of the reproduction")
    from reproduce import status

    print("\n".join(status.lines(parser.parse_args(list(joined(words))).folder)))
    return 0


def _merge(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m reproduce merge",
        description="Put the rows of several folders into one and report on them. Folders of "
        "`python -m bench` may be among them.",
    )
    parser.add_argument("folders", type=Path, nargs="+", help="folders with rows")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for all rows and the report"
    )
    given = parser.parse_args(list(joined(words)))
    from reproduce.merge import merge

    with alone_in(given.out):
        merge(given.folders, given.out)
        return _report(given.out)


if __name__ == "__main__":
    sys.exit(main())
