"""The report, from rows alone: ``claims.json``, figures, tables, ``report.html``, ``REPORT.md``."""

import base64
import importlib
import io
import json
import math
import pkgutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import pyplot as plt

import reproduce.figures
from ezo.rows import Row
from ezo.train import Run
from reproduce import ledger, tables
from reproduce.cost import clock
from reproduce.folder import read_rows
from reproduce.frame import frame
from reproduce.judge import VERDICTS, Finding, claims, judge


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report."""

    name: str
    title: str
    caption: str
    png: str  # base64


def write(
    out: Path,
    preset: str,
    about: str,
    full: bool,
    asked: dict[str, list[Run]] | None = None,
) -> list[Finding]:
    """Make the report of the rows in ``out``, in ``out``.

    Args:
        out: folder with rows; figures and report are written beside them.
        preset: name of the preset. about: what it runs.
        full: verdicts, not indications.
        asked: the preset's runs by the kind of their experiment; the report says which of them
            have no rows.

    Returns:
        What the rows show of every claim.
    """
    rows = read_rows(out)
    findings = judge(rows, full)
    texts = {module.CLAIM.id: module.CLAIM for module in claims()}
    _write_claims(out / "claims.json", findings)
    table = frame(rows)
    pictures = list(_pictures(table, out / "figures"))
    drawn = {picture.name for picture in pictures}
    accuracy = list(tables.accuracies(rows))
    tables.latex(out / "tables", [(texts[f.claim], f) for f in findings], accuracy)
    content = {
        "preset": preset,
        "about": about,
        "full": full,
        "claims": [
            (claim, tables.summary(mine), [(f, tables.estimate(claim, f)) for f in mine])
            for claim in texts.values()
            if (mine := [f for f in findings if f.claim == claim.id])
        ],
        "verdicts": VERDICTS,
        "accuracy": accuracy,
        "pictures": pictures,
        "missing": [m.TITLE for m in figures() if m.__name__.rsplit(".", 1)[1] not in drawn],
        "ledger": list(ledger.entries(table)),
        "hyper_names": tables.HYPERS,
        "hypers": list(tables.hypers(rows)),
        "not_run": tables.not_run(rows, asked or {}),
        "failures": [r for r in rows if r.metric in ("failed", "diverged")],
        "runs": tables.run_lines(rows),
        "machine": _machine(rows),
        "row_count": len(rows),
    }
    environment = Environment(
        loader=PackageLoader("reproduce"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=lambda name: name is not None and "html" in name,
    )
    for name in ("report.html", "REPORT.md"):
        text = environment.get_template(f"{name}.j2").render(content)
        (out / name).write_text(text + "\n", encoding="utf-8")
    return findings


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
        judged.append(plain({**claim, **bounds, **asdict(found)}))
    path.write_text(json.dumps(judged, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _pictures(table: pd.DataFrame, folder: Path) -> Iterator[Picture]:
    folder.mkdir(parents=True, exist_ok=True)
    for module in figures():
        name = module.__name__.rsplit(".", 1)[1]
        figure = module.draw(table)
        if figure is None:
            for old in folder.glob(f"{name}.*"):
                old.unlink()
            continue
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        (folder / f"{name}.png").write_bytes(png.getvalue())
        plt.close(figure)
        yield Picture(name, module.TITLE, module.CAPTION, base64.b64encode(png.getvalue()).decode())


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
