"""Rows over commits as one page: a line for each cell and metric, gaps and lost cells shown.

A row belongs to the commit that its ``commit`` names. Commits stand in the order of the history of
the clone; those that it doesn't know come first. Of several rows of a cell at a commit the last
counts. Rows of different machines are different lines, since their times don't compare.
"""

import argparse
import html
import json
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ezo import rows
from ezo.files import write_text
from ezo.rows import Row

WIDTH, HEIGHT = 240, 36  # pixels of a line's drawing
HEAD = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Rows over commits</title>
<style>
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
table { border-collapse: collapse } td, th { padding: .2rem .7rem; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
tr:nth-child(even) { background: #f5f5f5 } .lost { color: #a00000; font-weight: 600 }
polyline { fill: none; stroke: #1a5fa8; stroke-width: 1.5 }
circle { fill: #1a5fa8 } rect { fill: #f3d0d0 }
</style>
"""


class Line(NamedTuple):
    """What is followed over commits."""

    case: str
    metric: str
    unit: str
    machine: str


@dataclass(frozen=True)
class History:
    """Values by line and commit.

    Attributes:
        commits: in order, the newest last.
        values: of each line at the commits that have one; None where measuring failed.
    """

    commits: tuple[str, ...]
    values: dict[Line, dict[str, float | None]]

    def lost(self) -> list[Line]:
        """Lines that the last commit lacks, which a commit before it had: renamed, or gone."""
        last = self.commits[-1:]
        return [line for line, of in self.values.items() if last and last[0] not in of]


def history(measured: Iterable[Row], order: Sequence[str]) -> History:
    """Rows as lines over commits.

    Args:
        order: all commits known, oldest first.
    """
    values: dict[Line, dict[str, float | None]] = {}
    for row in measured:
        machine = str(row.config.get("machine", row.processor))
        line = Line(row.case, row.metric, row.unit, machine)
        values.setdefault(line, {})[row.commit or "unknown"] = row.value
    found = dict.fromkeys(commit for of in values.values() for commit in of)
    place = {commit: i for i, commit in enumerate(order)}
    commits = sorted(found, key=lambda commit: place.get(commit, -1))  # stable: as they came
    return History(tuple(commits), dict(sorted(values.items())))


def page(found: History) -> str:
    """HTML of one file, without scripts."""
    parts = [HEAD, "<h1>Rows over commits</h1>\n"]
    first, last = (found.commits[i][:10] if found.commits else "none" for i in (0, -1))
    parts.append(
        f"<p>{len(found.values):,} lines, {len(found.commits)} commits: {first} to {last}."
    )
    parts.append(" Red in a drawing: a commit that has no value.</p>\n")
    if lost := found.lost():
        parts.append(f'<p class="lost">Not measured at {last}, renamed or gone:</p>\n<ul>\n')
        parts += [f"<li>{_text(line.case)} {_text(line.metric)}</li>\n" for line in lost]
        parts.append("</ul>\n")
    parts.append("<table>\n<tr><th>cell</th><th>metric</th><th>over commits</th><th>last</th>")
    parts.append("<th>unit</th><th>change</th><th>machine</th></tr>\n")
    parts += [_row(found.commits, line, of) for line, of in found.values.items()]
    return "".join([*parts, "</table>\n</html>\n"])


def _row(commits: Sequence[str], line: Line, of: dict[str, float | None]) -> str:
    here = [of.get(commit) for commit in commits]
    known = [value for value in here if value is not None]
    change = ""
    if len(known) > 1 and known[-2]:
        change = f"{100 * (known[-1] / known[-2] - 1):+.2f} %"
    last = "failed" if here[-1] is None and commits[-1] in of else "missing"
    shown = f"{here[-1]:,.6g}" if here[-1] is not None else f'<span class="lost">{last}</span>'
    cells = (
        f"<td>{_text(line.case)}</td><td>{_text(line.metric)}</td><td>{_drawn(commits, here)}</td>"
    )
    numbers = f'<td class="n">{shown}</td><td>{_text(line.unit)}</td><td class="n">{change}</td>'
    return f"<tr>{cells}{numbers}<td>{_text(line.machine)}</td></tr>\n"


def _drawn(commits: Sequence[str], values: Sequence[float | None]) -> str:
    """SVG: each run of values a line, each value a dot that tells it, each gap a bar."""
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 0.0)
    step = WIDTH / max(len(values), 1)
    parts, run = [], list[str]()
    for i, value in enumerate(values):
        x = (i + 0.5) * step
        if value is None:
            parts += [f'<rect x="{i * step:.1f}" y="0" width="{step:.1f}" height="{HEIGHT}"/>']
            parts += _polyline(run)
            run = []
            continue
        share = (value - low) / (high - low) if high > low else 0.5
        y = HEIGHT - 5 - share * (HEIGHT - 10)
        run.append(f"{x:.1f},{y:.1f}")
        told = f"{commits[i][:10]}: {value:,.6g}"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{told}</title></circle>')
    drawn = "".join([*parts, *_polyline(run)])
    return f'<svg width="{WIDTH}" height="{HEIGHT}" role="img">{drawn}</svg>'


def _polyline(points: list[str]) -> list[str]:
    return [f'<polyline points="{" ".join(points)}"/>'] if len(points) > 1 else []


def _text(word: str) -> str:
    return html.escape(word)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of ``python -m bench history``."""
    parser.add_argument("files", nargs="+", type=Path, help="files of rows, or the gate's --json")
    parser.add_argument(
        "--past", action="store_true", help="each file's earlier versions in git as well"
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the page, for example history.html"
    )


def run(given: argparse.Namespace) -> int:
    """Write the page; returns 0.

    Raises:
        ValueError: a file holds no rows.
        OSError: a file can't be read or written.
    """
    measured: list[Row] = []
    for path in given.files:
        if given.past:
            measured += _past(path)
        measured += _read(path)
    found = history(measured, _git("rev-list", "--reverse", "HEAD").split())
    write_text(given.out, page(found))
    print(f"{len(found.values):,} lines over {len(found.commits)} commits: {given.out}")
    for line in found.lost():
        print(f"missing at {found.commits[-1][:10]}: {line.case} {line.metric}")
    return 0


def _read(path: Path) -> list[Row]:
    if path.suffix != ".json":
        return rows.read(path)
    try:
        return [Row(**row) for row in json.loads(path.read_text(encoding="utf-8"))["rows"]]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path}: expected what `python -m bench gate --json` writes, got another file "
            f"({type(error).__name__}: {error}); give that, or a file of rows"
        ) from error


def _past(path: Path) -> list[Row]:
    """Rows of earlier versions of a file, oldest first; none where git has none."""
    folder = str(path.parent)
    found: list[Row] = []
    for commit in reversed(_git("-C", folder, "log", "--format=%H", "--", path.name).split()):
        text = _git("-C", folder, "show", f"{commit}:./{path.name}")
        for text_line in text.splitlines():
            values = json.loads(text_line)
            if isinstance(values, dict) and {"case", "metric", "value", "unit"} <= values.keys():
                known = {name: values[name] for name in Row.__dataclass_fields__ if name in values}
                found.append(Row(**known))
    return found


def _git(*words: str) -> str:
    """What git prints; nothing where there is no git or it has no answer."""
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True)
    except FileNotFoundError:
        return ""
    return done.stdout if done.returncode == 0 else ""
