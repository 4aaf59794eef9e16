"""The one command that makes a case's rows again, from the rows themselves."""

from typing import Any

from ezo import catalogue
from ezo.rows import Row
from ezo.run import Run, option

OWN = ("epochs", "batch_size", "train_examples", "held_out")  # settings that every run has


def commands(rows: list[Row]) -> dict[str, str]:
    """By case; without one where the case's names are known no more."""
    first: dict[str, Row] = {}
    for row in rows:
        first.setdefault(row.case, row)
    found = {}
    for case, row in first.items():
        try:
            found[case] = _train(row) if row.seed is not None else _measure(row)
        except ValueError:  # of a name, or a value, of another commit
            continue
    return found


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
    benchmark = str(row.config.get("benchmark", ""))
    if not benchmark:
        return ""
    batch = row.config.get("batch_size")
    words = [
        f"python -m bench run {benchmark.replace('steptime', 'compare')} --models {row.model}",
        f"--methods {row.method}",
        f"--batch-size {batch}" if batch else "",
        f"--precision '{row.precision}'" if row.precision != "fp32" else "",
        f"--threads {row.threads}" if row.threads != 1 else "",
        f"--out measured/{row.case}",
    ]
    return " ".join(filter(None, words))


def _text(value: Any) -> str:
    return "none" if value is None else str(value)
