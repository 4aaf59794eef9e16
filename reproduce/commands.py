"""The command that makes a case's rows again, from the rows themselves."""

import contextlib
import dataclasses
import importlib
from typing import Any

from bench.grid import Grid
from ezo import catalogue
from ezo.rows import Row
from ezo.run import Run, option

OWN = ("epochs", "batch_size", "train_examples", "held_out")  # settings that every run has


def commands(rows: list[Row]) -> dict[str, str]:
    """By case, of each benchmark that measured it; none where its names are known no more."""
    first: dict[tuple[str, Any], Row] = {}
    for row in rows:
        first.setdefault((row.case, row.config.get("benchmark")), row)
    found: dict[str, list[str]] = {}
    for (case, _), row in first.items():
        with contextlib.suppress(ValueError):  # of a name, or a value, of another commit
            found.setdefault(case, []).append(
                _train(row) if row.seed is not None else _measure(row)
            )
    return {case: "; ".join(filter(None, dict.fromkeys(of))) for case, of in found.items()}


def _train(row: Row) -> str:
    """Names every value that the command would not take by itself today."""
    start = row.config.get("start", "")
    settled = Run(row.model, row.data, row.method, row.precision, start=start).settled()
    reads = catalogue.find("precision", row.precision).reads(row.method)
    names = [*OWN, *(name for name in settled.config if name in reads)]
    changed = {
        name: row.config[name]
        for name in names
        if name in row.config and row.config[name] != settled.config[name]
    }
    words = [
        f"ezo train --model {row.model} --data {row.data} --method {row.method}",
        f"--precision '{row.precision}'" if row.precision != "fp32" else "",
        f"--seed {row.seed}",
        *(f"{option(name)} {_text(value)}" for name, value in changed.items()),
        f"--start {start}" if start else "",
        f"--threads 1 --out runs/{row.case}",
    ]
    return " ".join(filter(None, words))


def _measure(row: Row) -> str:
    """Names what differs from the benchmark's own case, of what its cases have."""
    benchmark = str(row.config.get("benchmark", "")).replace("steptime", "compare")
    if not benchmark:
        return ""
    usual = Grid([row.model], [row.method]).cells(importlib.import_module(f"bench.{benchmark}"))[0]
    wanted = {"chunk": 0, **row.config, "precision": row.precision, "threads": row.threads}
    varied = ("batch_size", "precision", "threads", "chunk")
    own = [f.name for f in dataclasses.fields(usual) if f.name in varied and f.name in wanted]
    words = [
        f"python -m bench run {benchmark} --models {row.model} --methods {row.method}",
        *(
            f"{option(name)} {_quoted(wanted[name])}"
            for name in sorted(own, key=varied.index)
            if wanted[name] != getattr(usual, name)
        ),
        f"--out measured/{row.case}",
    ]
    return " ".join(words)


def _quoted(value: Any) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
