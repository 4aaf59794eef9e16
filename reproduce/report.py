"""The report, from rows alone: ``claims.json``, figures, tables, ``report.html``, ``REPORT.md``."""

import base64
import importlib
import json
import math
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

import reproduce.figures
from ezo.files import clean, replaced, write_text
from ezo.rows import Row
from reproduce import coverage, ledger, opening, tables
from reproduce.commands import commands
from reproduce.cost import clock
from reproduce.figures._style import panels, png
from reproduce.folder import read_rows
from reproduce.frame import frame
from reproduce.glossary import TERMS
from reproduce.judge import VERDICTS, Finding, claims, judge
from reproduce.presets import Preset
from reproduce.small_tables import small_tables, trade_off

TEMPLATES = ("report.html", "REPORT.md")
VECTORS = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report."""

    name: str
    title: str
    caption: str
    png: str  # base64
    opening: int  # its place among the first, or 0


def write(out: Path, name: str, preset: Preset) -> list[Finding]:
    """Make the report of the rows in ``out``, in ``out``.

    Args:
        out: folder with rows; figures and report are written beside them.
        name: of the preset that the rows come from.
        preset: the report says how much of it the rows cover.

    Returns:
        What the rows show of every claim.
    """
    rows = read_rows(out)
    findings = judge(rows, preset.full)
    judged = tables.judged((module.CLAIM for module in claims()), findings)
    _write_claims(out / "claims.json", findings)
    table = frame(rows)
    pictures = list(_pictures(table, out / "figures"))
    scores = opening.scorecard(judged, preset.data, rows)
    drawn = {picture.name for picture in pictures}
    accuracy = list(tables.accuracies(rows))
    tables.latex(out / "tables", judged, accuracy)
    content = {
        "preset": name,
        "about": preset.about,
        "full": preset.full,
        **_coverage(rows, preset),
        "terms": TERMS,
        "claims": judged,
        "verdicts": VERDICTS,
        "scores": scores,
        "tally": opening.tally(scores),
        "exploratory": opening.exploratory(findings, scores),
        "rules": opening.stamp(),
        "today": datetime.now(timezone.utc).date().isoformat(),
        "own_part": opening.own_part(scores),
        "trade_off": trade_off(rows, preset.data),
        "verdict_words": dict.fromkeys(
            [score.verdict for score in scores]
            + [line.finding.verdict for score in scores for line in score.beside]
        ),
        "small_tables": small_tables(rows),
        "accuracy": accuracy,
        "first": sorted((p for p in pictures if p.opening), key=lambda p: p.opening),
        "pictures": [p for p in pictures if not p.opening],
        "undrawn": [m.TITLE for m in figures() if m.__name__.rsplit(".", 1)[1] not in drawn],
        "ledger": list(ledger.entries(table)),
        "searched": ledger.SEARCHED_HOW,
        "hyper_names": tables.HYPERS,
        "hypers": list(tables.hypers(rows)),
        "failures": [r for r in rows if r.metric in ("failed", "diverged")],
        "runs": (runs := tables.run_lines(rows)),
        "commands": commands(rows),
        "numbers": _numbers(runs),
        "machine": _machine(rows),
        "commits": len({row.commit for row in rows}),
        "row_count": len(rows),
    }
    _render(out, content)
    return findings


def check(out: Path) -> None:
    """Fail now where `write` would fail after hours of training: imports, templates, drawing.

    Raises:
        OSError: ``out`` can't be written to.
    """
    environment = _environment()
    for name in TEMPLATES:
        environment.get_template(f"{name}.j2")
    list(claims())
    list(figures())
    figure, (ax,) = panels(1)
    ax.plot([0, 1])
    (out / "figures").mkdir(parents=True, exist_ok=True)
    for suffix in (*VECTORS, "png"):
        path = out / "figures" / f"check.{suffix}"
        figure.savefig(path)
        path.unlink()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("reproduce"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    environment.filters["cell"] = markdown_cell
    return environment


def _render(out: Path, content: dict[str, Any]) -> None:
    environment = _environment()
    for name in TEMPLATES:
        text = environment.get_template(f"{name}.j2").render(content)
        write_text(out / name, text + "\n")


def markdown_cell(text: object) -> str:
    """Text as it stays one cell of a Markdown table, and text.

    >>> print(markdown_cell("bound on |g|, in int8*"))
    bound on \\|g\\|, in int8\\*
    """
    return re.sub(r"([|<*])", r"\\\1", " ".join(str(text).split()))


def _coverage(rows: list[Row], preset: Preset) -> dict[str, Any]:
    """What the rows cover, and what they do not."""
    parts = coverage.parts(rows, preset.experiments)
    measured = coverage.measured(rows, preset.cells)
    return {
        "trained": [part for part in parts if part.finished or part.ended],
        "measured": [part for part in measured if part.cases],
        "untrained": [
            f"{part.name} ({part.wanted - part.finished - part.ended} of {part.wanted} runs)"
            for part in parts
            if part.missing
        ],
        "unmeasured": [part for part in measured if not part.cases],
        "missing": [(part.name, part.missing) for part in parts if part.missing]
        + [(part.name, part.missing) for part in measured if part.missing],
        "beyond": coverage.beyond(rows, preset.experiments),
    }


def _numbers(runs: list[tables.RunLine]) -> Callable[[Iterable[str]], str]:
    """Makes of cases the text of their numbers in the table of cases."""
    number = {run.case: run.number for run in runs}
    return lambda cases: tables.spans(tables.ranges(number[case] for case in cases))


def figures() -> Iterator[ModuleType]:
    """Every figure's file, in the order of their names."""
    for info in sorted(
        pkgutil.iter_modules(reproduce.figures.__path__), key=lambda info: info.name
    ):
        if not info.name.startswith("_"):
            yield importlib.import_module(f"reproduce.figures.{info.name}")


def _write_claims(path: Path, findings: list[Finding]) -> None:
    texts = {module.CLAIM.id: module.CLAIM for module in claims()}

    def plain(fields: dict[str, Any]) -> dict[str, Any]:
        return {
            name: None if isinstance(x, float) and not math.isfinite(x) else x
            for name, x in fields.items()
        }

    judged = []
    for found in findings:
        claim = asdict(texts[found.claim])
        bounds = {"printed_low": claim.pop("low"), "printed_high": claim.pop("high")}
        text = tables.estimate(texts[found.claim], found)
        judged.append(plain({**claim, **bounds, **asdict(found), "found": text}))
    write_text(path, json.dumps(judged, indent=1, allow_nan=False) + "\n")


def _pictures(table: pd.DataFrame, folder: Path) -> Iterator[Picture]:
    folder.mkdir(parents=True, exist_ok=True)
    clean(folder)
    drawn = {m.__name__.rsplit(".", 1)[1]: m.draw(table) for m in figures()}
    for old in folder.iterdir():  # of figures that are there no more, or have no rows
        if old.suffix[1:] in (*VECTORS, "png") and drawn.get(old.stem) is None:
            old.unlink()
    for module in figures():
        name = module.__name__.rsplit(".", 1)[1]
        if (figure := drawn[name]) is None:
            continue
        for kind, metadata in VECTORS.items():
            with replaced(folder / f"{name}.{kind}") as beside:
                figure.savefig(beside, format=kind, metadata=metadata)
        drawn_png = png(figure)
        with replaced(folder / f"{name}.png") as beside:
            beside.write_bytes(drawn_png)
        first = getattr(module, "OPENING", 0)
        text = base64.b64encode(drawn_png).decode()
        yield Picture(name, module.TITLE, module.CAPTION, text, first)


def _machine(rows: list[Row]) -> dict[str, str]:
    def each(values: Any) -> str:
        return ", ".join(sorted({str(v) for v in values}))

    seconds = {r.case: r.value or 0.0 for r in rows if r.metric == "train_seconds"}
    return {
        "processor": each(r.processor for r in rows if r.processor),
        "threads": each(r.threads for r in rows),
        "device": each(r.device for r in rows),
        "versions": each(", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in rows),
        "commit": each(
            (r.commit or "unknown") + (" (with changes)" if r.dirty else "") for r in rows
        ),
        "data checksums": each(f"{r.data} {r.data_checksum[:12]}" for r in rows if r.data_checksum),
        "training, all runs together": f"{clock(sum(seconds.values()))} of one thread",
    }
