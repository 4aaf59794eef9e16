"""The report, from rows alone: ``claims.json``, figures, ``report.html`` and ``REPORT.md``."""

import base64
import importlib
import io
import json
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
from ezo import rows as rows_module
from ezo.rows import Row
from reproduce.figures._style import order
from reproduce.judge import Finding, claims, final, interval, judge

LEDGER = (  # what the paper leaves open and no row's config holds
    ("initial weights", "Xavier uniform, zero biases", "full ZO needs it: see ezo/models/_init.py"),
    (
        "input scaling",
        "mean 0, variance 1 over the training set; clouds: centred, unit radius",
        "usual",
    ),
    (
        "learning-rate schedule",
        "in each run's row: exponential to 3 % over the run, or cosine to 0; both parts alike",
        "full ZO loses what it learnt where a high rate lasts",
    ),
    (
        "hyperparameters on MNIST",
        "in each run's row",
        "reports/README.md says how they were chosen and where the search's rows are",
    ),
    ("where the BP gradient is taken", "mean of the two passes", "no bias from either side"),
    (
        "memory",
        "exact tensor bytes at the peak of a step: weights, gradients, optimiser state and batch "
        "included, buffers inside an operation not",
        "exact and repeatable",
    ),
    ("last, partial batch of an epoch", "left for the next shuffle", "shapes stay fixed"),
)


@dataclass(frozen=True)
class Picture:
    """A figure as it stands in the report."""

    name: str
    title: str
    caption: str
    png: str  # base64


def write(out: Path, preset: str, about: str, full: bool) -> list[Finding]:
    """Make the report of ``out/rows.jsonl``, in ``out``.

    Args:
        out: folder with rows; figures and report are written beside them.
        preset: name of the preset. about: what it runs.
        full: verdicts, not indications.

    Returns:
        What the rows show of every claim.
    """
    rows = rows_module.read(out / "rows.jsonl")
    if not rows:
        raise ValueError(f"{out / 'rows.jsonl'}: expected rows, got none; run the preset first")
    findings = judge(rows, full)
    texts = {module.CLAIM.id: module.CLAIM for module in claims()}
    judged = [{**asdict(texts[f.claim]), **asdict(f)} for f in findings]
    finite = [
        {k: None if v in (float("inf"), -float("inf")) else v for k, v in j.items()} for j in judged
    ]
    (out / "claims.json").write_text(
        json.dumps(finite, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    content = {
        "preset": preset,
        "about": about,
        "full": full,
        "findings": [(texts[f.claim], f, _estimate(f)) for f in findings],
        "accuracy": list(_accuracy_table(rows)),
        "pictures": list(_pictures(_frame(rows), out / "figures")),
        "ledger": LEDGER,
        "hypers": list(_hyper_table(rows)),
        "failures": [r for r in rows if r.metric in ("failed", "diverged")],
        "machine": _machine(rows),
        "train_minutes": sum(r.value or 0.0 for r in final(rows, "train_seconds").values()) / 60,
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


def _frame(rows: list[Row]) -> pd.DataFrame:
    return pd.DataFrame(
        {**asdict(row), **{f"config.{k}": v for k, v in row.config.items()}} for row in rows
    ).astype({"value": float})


def _pictures(frame: pd.DataFrame, folder: Path) -> Iterator[Picture]:
    folder.mkdir(parents=True, exist_ok=True)
    for module in figures():
        figure = module.draw(frame)
        if figure is None:
            continue
        name = module.__name__.rsplit(".", 1)[1]
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None})
        png = io.BytesIO()
        figure.savefig(png, format="png", dpi=150)
        (folder / f"{name}.png").write_bytes(png.getvalue())
        plt.close(figure)
        yield Picture(name, module.TITLE, module.CAPTION, base64.b64encode(png.getvalue()).decode())


def _estimate(finding: Finding) -> str:
    """The estimate and its interval as text, in the claim's unit."""
    if finding.value is None or finding.low is None or finding.high is None:
        return "-"
    text = f"{finding.value:+.4g}"
    if finding.low == finding.high:
        return f"{text} (exact)"
    if finding.seeds == 1:
        return f"{text} (one seed, no interval)"
    return f"{text} [{finding.low:+.4g}, {finding.high:+.4g}]"


def _accuracy_table(rows: list[Row]) -> Iterator[tuple[str, str, str, str, int]]:
    """(model, data, method, accuracy and interval, seeds)."""
    ends = final(rows, "test_accuracy")
    for model, data in sorted({key[:2] for key in ends}):
        for method in order(m for mo, d, m, _ in ends if (mo, d) == (model, data)):
            values = [
                r.value or 0.0 for k, r in sorted(ends.items()) if k[:3] == (model, data, method)
            ]
            mean, low, high = interval(values)
            spread = "" if len(values) == 1 else f" [{low:.2f}, {high:.2f}]"
            yield model, data, method, f"{mean:.2f}{spread}", len(values)


def _hyper_table(rows: list[Row]) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    seen = set()
    for (model, data, method, _), row in sorted(final(rows, "test_accuracy").items()):
        if (model, data, method) not in seen:
            seen.add((model, data, method))
            yield model, data, method, row.config


def _machine(rows: list[Row]) -> dict[str, str]:
    def each(values: Any) -> str:
        return ", ".join(sorted({str(v) for v in values}))

    return {
        "processor": each(r.processor for r in rows),
        "threads per run": each(r.threads for r in rows),
        "device": each(r.device for r in rows),
        "versions": each(", ".join(f"{k} {v}" for k, v in r.versions.items()) for r in rows),
        "commit": each(
            (r.commit or "unknown") + (" (with changes)" if r.dirty else "") for r in rows
        ),
        "data checksums": each(f"{r.data} {r.data_checksum[:12]}" for r in rows if r.data_checksum),
    }
