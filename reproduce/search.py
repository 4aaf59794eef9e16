"""Choose hyperparameters, with the same number of trials for every method.

``python -m reproduce.search --model lenet5 --data mnist --out DIR`` searches in three rounds, with
as many trials for every method: scrambled Sobol points over the method's whole space; a second set
in a box of a quarter of each side (on the logarithmic scale) around the best so far; and, around
the best of those, larger perturbations with looser clipping, or a third set where there is none.
A trial is as long as the runs that the values are for, since rates that win short trials ruin long
ones; what it is judged by is accuracy on held-out training examples: the test set is never looked
at. ``--known`` reads trials that were done before, ``--write`` puts the result into
``ezo/tuned.json``.
"""

import argparse
import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from bench import engines
from ezo import check, methods, rows, tuned
from ezo.cli import joined
from ezo.files import run_command, write_text
from ezo.lock import alone_in
from ezo.methods import Hyper
from ezo.rows import Row
from ezo.train import Run
from reproduce.execute import execute
from reproduce.experiments._runs import training

MOST_TRIALS = 10_000
SEED = 1000  # of every trial; no reported run uses it
# (lowest, highest), searched on a logarithmic scale, or the choices
ZO_SPACE = {"lr": (8e-5, 6e-4), "clip": (1.5, 6.0)}
BP_SPACE = {"bp_lr": (3e-3, 2e-1)}
SCHEDULES = ("exponential", "cosine")
# (eps, factor on the clip) of the third round; before it, eps is the method's default
WIDER = ((5e-3, 2.0), (1e-2, 2.0), (1e-2, 4.0))
SHRINK = 4  # how much narrower the second round's box is
ENDS = ("finished", "diverged")  # the last row of a trial that needs no more training
TUNED = tuned.PATH


def space(method: str) -> dict[str, tuple[float, float]]:
    """The numbers that are searched for a method, with their bounds; the schedule comes on top."""
    zo = ZO_SPACE if method == "full-zo" or method.startswith("elastic") else {}
    return zo if method == "full-zo" else {**zo, **BP_SPACE}


def candidates(method: str, trials: int, around: Hyper | None = None, draw: int = 1) -> list[Hyper]:
    """``trials`` points of a Sobol sequence, rounded to three digits.

    Args:
        method: whose space.
        trials: how many.
        around: None for the whole space and both schedules; otherwise the centre of a narrower
            box, whose schedule is kept.
        draw: which set of points for that box.
    """
    bounds = space(method)
    if around is not None:
        bounds = {name: _narrow(getattr(around, name), *b) for name, b in bounds.items()}
    seed = SEED + (draw if around is not None else 0)
    points = torch.quasirandom.SobolEngine(len(bounds) + 1, scramble=True, seed=seed).draw(trials)
    found = []
    for *point, last in points.tolist():
        values: dict[str, Any] = {
            name: float(f"{low * (high / low) ** x:.2e}")
            for x, (name, (low, high)) in zip(point, bounds.items(), strict=True)
        }
        values["schedule"] = around.schedule if around else SCHEDULES[int(2 * last)]
        found.append(replace(methods.default(method), **values))
    return found


def third_round(method: str, best: Hyper) -> list[Hyper]:
    """``len(WIDER)`` more points around ``best``: wider, for a method that perturbs."""
    if "lr" in space(method):
        assert best.clip is not None
        return [replace(best, eps=eps, clip=factor * best.clip) for eps, factor in WIDER]
    return candidates(method, len(WIDER), best, draw=2)


def _narrow(centre: float, low: float, high: float) -> tuple[float, float]:
    """A box of the same shape around ``centre``, ``SHRINK`` times smaller, within the bounds."""
    half = (high / low) ** (0.5 / SHRINK)
    return max(low, centre / half), min(high, centre * half)


def score(run_rows: list[Row]) -> float:
    """Accuracy on the held-out examples at the end, in %; -1 for a run that did not finish."""
    if run_rows[-1].metric != "finished":
        return -1.0
    return next(r.value for r in reversed(run_rows) if r.metric == "test_accuracy") or 0.0


def search(given: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """All rounds of every method; returns the chosen values by method.

    Raises:
        ValueError: a number is out of range, or a name unknown.
    """
    if not 3 <= given.trials <= MOST_TRIALS:
        raise ValueError(
            f"expected --trials from 3 to {MOST_TRIALS:,}, got {given.trials}; give as many as "
            "there is time to train"
        )
    check.jobs(given.jobs)
    engines.check(given.engine)
    base = Run(given.model, given.data, "", epochs=given.epochs, seed=SEED, held_out=given.held_out)
    there = given.out / "rows.jsonl"
    known = _known([*given.known, *([there] if there.exists() else [])])
    if given.start:
        base = replace(base, start=_train_start(given))
    tried: dict[str, dict[Hyper, float]] = {method: {} for method in given.methods}
    second = given.trials * 2 // 5
    for trials in (given.trials - second, second, None):
        points: list[tuple[str, Hyper]] = []
        for method, scored in tried.items():
            best = _best(scored)
            if trials is not None:
                found = candidates(method, trials, best)
            else:
                assert best is not None
                found = third_round(method, best)
            points += [(method, hyper) for hyper in found]
        runs = [replace(base, method=method, hyper=hyper) for method, hyper in points]
        scores = _run_all(runs, known, given)
        for (method, hyper), run in zip(points, runs, strict=True):
            tried[method][hyper] = scores[run.case]
    chosen = {}
    for method, scored in tried.items():
        best = _best(scored)
        names = [*space(method), "schedule", *(["eps"] if "lr" in space(method) else [])]
        chosen[method] = {name: getattr(best, name) for name in names}
        print(f"{method:<14} {max(scored.values()):6.2f} %  {chosen[method]}")
    return chosen


def _train_start(given: argparse.Namespace) -> str:
    """The case of a run by full BP, trained, whose weights the trials start from."""
    (start,) = training(
        given.model, given.start, ("full-bp",), seeds=[SEED], epochs=given.start_epochs
    )
    start = replace(start, held_out=given.held_out)
    (found,) = execute([start], given.out / "runs", root=given.data_root)
    if found[-1].metric != "finished":
        raise SystemExit(f"{start.case} did not finish: {found[-1].note}")
    _add(given.out / "rows.jsonl", found)
    return start.case


def _add(path: Path, found: list[Row]) -> None:
    """Put a run's rows into a file in place of those that it has of it."""
    kept = rows.read(path) if path.exists() else []
    rows.write(path, [*(row for row in kept if row.case != found[0].case), *found])


def _best(scored: dict[Hyper, float]) -> Hyper | None:
    return max(scored, key=lambda h: scored[h], default=None)


def _known(files: list[Path]) -> dict[str, list[Row]]:
    """The rows of finished trials by case."""
    by_case: dict[str, list[Row]] = {}
    for file in files:
        for row in rows.read(file):
            by_case.setdefault(row.case, []).append(row)
    return {case: found for case, found in by_case.items() if found[-1].metric in ENDS}


def _run_all(
    runs: list[Run], known: dict[str, list[Row]], given: argparse.Namespace
) -> dict[str, float]:
    """Train all that are not known; append rows; return scores by case."""
    done = [known[run.case] for run in runs if run.case in known]
    if made := rows.of_other_code(row for part in done for row in part):
        print(
            f"search: of {len(done)} trials that are kept some are of {made}, other code than "
            "this; remove their rows to train them again",
            file=sys.stderr,
        )
    rest = [run for run in runs if run.case not in known]
    how = {"root": given.data_root, "jobs": given.jobs, "engine": given.engine}
    trained = execute(rest, given.out / "runs", **how)
    scores: dict[str, float] = {}
    for run_rows in tqdm(itertools.chain(done, trained), total=len(runs), desc="search"):
        _add(given.out / "rows.jsonl", run_rows)
        scores[run_rows[0].case] = score(run_rows)
    return scores


def main() -> int:
    """The command line."""
    return run_command("search", _command, workers=True)


def _command() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--model", default="lenet5")
    add("--data", default="mnist")
    add(
        "--methods",
        nargs="+",
        default=["full-zo", "elastic-1", "elastic-2", "tail-only-1", "tail-only-2", "full-bp"],
    )
    add(
        "--trials",
        type=int,
        default=7,
        help=f"points per method in the first two rounds, two fifths in the second; "
        f"the third has {len(WIDER)}",
    )
    add("--epochs", type=int, default=20, help="epochs of a trial")
    add("--held-out", type=int, default=10_000, help="training examples kept for choosing")
    add("--start", default="", help="data that full BP trains on before every trial, if any")
    add("--start-epochs", type=int, default=20, help="epochs of that training")
    add("--data-root", type=Path, help="folder of the data sets; by default EZO_DATA, else data")
    add("--jobs", type=int, default=2, help="processes side by side")
    add("--engine", default=engines.USUAL, help=engines.HELP)
    add("--out", type=Path, required=True, help="folder for rows and resumable runs")
    add("--known", type=Path, nargs="+", default=[], help="rows of trials that were done before")
    add("--write", action="store_true", help=f"update {TUNED.name}")
    given = parser.parse_args(list(joined(sys.argv[1:])))
    with alone_in(given.out):
        chosen = search(given)
    if given.write:
        task = f"{given.model}/{tuned.task(given.data, given.start)}"
        _write({f"{task}/{method}": values for method, values in chosen.items()})
    return 0


def _write(chosen: dict[str, dict[str, Any]]) -> None:
    """Put values into the table; what other searches put there meanwhile stays."""
    with alone_in(TUNED.parent, f"{TUNED.name}.lock", wait=True):
        table = json.loads(TUNED.read_text(encoding="utf-8")) if TUNED.exists() else {}
        write_text(TUNED, json.dumps({**table, **chosen}, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())
