"""Choose hyperparameters, with the same number of trials for every method.

``python -m reproduce.search --model lenet5 --data mnist --out DIR`` draws the same scrambled Sobol
points for every method, trains each for a few epochs, and keeps the one with the highest accuracy
on held-out training examples: the test set is never looked at. The ZO learning rate is then scaled
by sqrt(trial epochs / run epochs): ZO's noise moves the weights by lr sqrt(steps), and a rate that
a short run stands makes a long one diverge from what it has learnt.
``--write`` puts the result into ``ezo/methods/tuned.json``.
"""

import argparse
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import ezo.methods
from ezo import catalogue, rows
from ezo.methods import Hyper
from ezo.rows import Row
from ezo.train import Run
from reproduce.execute import execute

SEED = 1000  # of every trial; no reported run uses it
# (lowest, highest), searched on a logarithmic scale
ZO_SPACE = {"lr": (2e-4, 1e-3), "eps": (1e-3, 1e-2), "clip": (1.5, 10.0)}
BP_SPACE = {"bp_lr": (5e-3, 1e-1)}
TUNED = Path(ezo.methods.__file__).with_name("tuned.json")


def space(method: str) -> dict[str, tuple[float, float]]:
    """The hyperparameters that are searched for a method, with their bounds."""
    zo = ZO_SPACE if method == "full-zo" or method.startswith("elastic") else {}
    return zo if method == "full-zo" else {**zo, **BP_SPACE}


def candidates(method: str, trials: int) -> list[Hyper]:
    """``trials`` points of a Sobol sequence in a method's space, rounded to two digits."""
    bounds = space(method)
    points = torch.quasirandom.SobolEngine(len(bounds), scramble=True, seed=SEED).draw(trials)
    found = []
    for point in points.tolist():
        values = {
            name: float(f"{low * (high / low) ** x:.1e}")
            for x, (name, (low, high)) in zip(point, bounds.items(), strict=True)
        }
        found.append(replace(catalogue.find("method", method).HYPER, **values))
    return found


def score(run_rows: list[Row]) -> float:
    """Accuracy on the held-out examples at the end, in %; -1 for a run that did not finish."""
    if run_rows[-1].metric != "finished":
        return -1.0
    return next(r.value for r in reversed(run_rows) if r.metric == "test_accuracy") or 0.0


def search(given: argparse.Namespace) -> dict[str, dict[str, float]]:
    """The trials of every method; returns the chosen values by method."""
    base = Run(given.model, given.data, "", epochs=given.epochs, seed=SEED, held_out=given.held_out)
    trials = [
        replace(base, method=method, hyper=hyper)
        for method in given.methods
        for hyper in candidates(method, given.trials)
    ]
    scores = _run_all(trials, given)
    chosen = {}
    for method in given.methods:
        best = max((r for r in trials if r.method == method), key=lambda r: scores[r.case])
        values = best.config()
        chosen[method] = {name: values[name] for name in space(method)}
        if "lr" in chosen[method]:
            scaled = values["lr"] * math.sqrt(given.epochs / given.run_epochs)
            chosen[method]["lr"] = float(f"{scaled:.2e}")
        print(f"{method:<14} {scores[best.case]:6.2f} %  {chosen[method]}")
    return chosen


def _run_all(runs: list[Run], given: argparse.Namespace) -> dict[str, float]:
    """Train all; append rows; return scores by case."""
    scores: dict[str, float] = {}
    path = given.out / "rows.jsonl"
    path.unlink(missing_ok=True)
    done = execute(runs, given.out / "runs", root=given.data_root, jobs=given.jobs)
    for run_rows in tqdm(done, total=len(runs), desc="search", unit="run"):
        rows.write(path, run_rows, append=True)
        scores[run_rows[0].case] = score(run_rows)
    return scores


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="lenet5")
    add("--data", default="mnist")
    add(
        "--methods",
        nargs="+",
        default=["full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp"],
    )
    add("--trials", type=int, default=6, help="points per method")
    add("--epochs", type=int, default=5, help="epochs of a trial")
    add("--run-epochs", type=int, default=20, help="epochs of the runs that the values are for")
    add("--held-out", type=int, default=10_000, help="training examples kept for choosing")
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--jobs", type=int, default=2, help="processes side by side")
    add("--out", type=Path, required=True, help="folder for rows and resumable runs")
    add("--write", action="store_true", help=f"update {TUNED.name}")
    given = parser.parse_args()
    chosen = search(given)
    if given.write:
        tuned = json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.exists() else {}
        for method, values in chosen.items():
            tuned[f"{given.model}/{given.data}/{method}"] = values
        TUNED.write_text(json.dumps(tuned, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    assert all(math.isfinite(v) for values in chosen.values() for v in values.values())
    return 0


if __name__ == "__main__":
    sys.exit(main())
