"""Presets: runs that exist, none twice, in the time that is promised."""

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ezo import rows
from ezo.methods import Hyper
from ezo.precisions.int8 import Int8Hyper
from ezo.train import Run
from ezo.tuned import GENTLE, tuned
from reproduce import cost, experiments, rules, select
from reproduce.experiments import _runs
from reproduce.experiments._runs import SEEDS, fine_tuning, training, with_queries
from reproduce.presets import PRESETS


def runs_of(preset, only=()):
    return [run for found in PRESETS[preset].runs(only).values() for run in found]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_runs_that_exist_and_no_run_twice(name):
    cases = [run.case for run in runs_of(name)]
    assert cases and len(cases) == len(set(cases))


def test_the_paper_preset_has_as_many_seeds_as_the_rules_say():
    assert PRESETS["paper"].full and not PRESETS["quick"].full
    runs = PRESETS["paper"].runs()
    seeds: dict[tuple[str, ...], set[int]] = {}
    for kind, found in runs.items():
        for r in found:
            if not (kind == "training" and r.epochs != 20):
                name = (kind, r.model, r.data, r.method, r.precision)
                seeds.setdefault(name, set()).add(r.seed)
    five = set(range(rules.SEEDS))
    for data in ("mnist", "fashion-mnist"):
        for precision in ("fp32", "int8"):
            for method in _runs.METHODS:
                assert seeds["training", "lenet5", data, method, precision] == five
        for method in ("full-zo", "elastic-1", "elastic-2"):
            assert seeds["sign", "lenet5", data, method, "int8"] == five
    for method in (*_runs.FINE_TUNING_METHODS, "tail-only-1", "tail-only-2"):
        assert seeds["fine-tuning", "lenet5", "mnist-rot30", method, "fp32"] == five
    least = {len(found) for (kind, *_), found in seeds.items() if kind != "sensitivity"}
    assert least == {rules.LEAST_SEEDS, rules.SEEDS}


@pytest.mark.parametrize("name", PRESETS)
def test_the_command_line_trains_with_the_values_that_the_reproduction_uses(name):
    """A run without hyperparameters, as `ezo train` makes it, is the preset's; or says that none
    were searched for. Other kinds' runs have values of their own: more queries, one value varied.
    """
    found = PRESETS[name].runs()
    for run in [*found["training"], *found.get("fine-tuning", [])]:
        settled = replace(run, hyper=None).settled()
        assert settled.case == run.case
        hyper, default = settled.run.hyper, settled.files["precision"].default(run.method)
        if run.start and hasattr(hyper, "r_max"):
            hyper = replace(hyper, r_max=default.r_max)
        assert ("the defaults of" in settled.source) == (hyper == default)


def test_fine_tuning_starts_from_runs_of_the_preset_also_when_it_is_asked_for_alone():
    found = PRESETS["paper"].runs(("fine-tuning",))
    starts = {run.case: run for run in found["training"]}
    tuned = found["fine-tuning"]
    assert {run.start for run in tuned} == set(starts)
    for run in tuned:
        start = starts[run.start]
        assert (start.method, start.seed) == ("full-bp", run.seed)
        assert run.data.partition("-rot")[0] == start.data
        if run.precision != "fp32":
            assert run.hyper.r_max << run.hyper.zo_growth == GENTLE
    assert {run.data for run in tuned} == {
        f"{data}-rot{angle}" for data in ("mnist", "fashion-mnist") for angle in (30, 45)
    }


def test_the_paper_preset_is_predicted_to_take_the_hours_that_it_names_at_most():
    every = [run for e in PRESETS["paper"].experiments.values() for run in e.runs()]
    assert {run.precision for run in every} == {"fp32", "int8", "int8*"}
    assert "About 34 hours of one thread" in PRESETS["paper"].about
    assert 26 < sum(map(cost.seconds, every)) / 3600 < 31


def test_the_quick_preset_has_rows_for_every_claim_of_the_abstract():
    quick = PRESETS["quick"].runs()
    assert {(r.method, r.precision) for r in quick["training"]} >= {
        (method, precision) for method in _runs.METHODS for precision in ("fp32", "int8")
    }
    for kind, precisions in {"fine-tuning": {"fp32", "int8"}, "long": {"int8"}}.items():
        assert {r.precision for r in quick[kind]} == precisions
        assert {r.seed for r in quick[kind]} == {0, 1, 2}
    cells = [cell for part in PRESETS["quick"].cells for cell in part.cases()]
    assert {benchmark for benchmark, _ in cells} == {"memory", "float_operations", "precisions"}
    of_memory = {(c.model, c.precision, c.method) for b, c in cells if b == "memory"}
    assert of_memory >= {
        ("lenet5", p, m) for p in ("fp32", "int8") for m in ("inference", "full-zo", "elastic-2")
    }
    assert {c.rounds for b, c in cells if b == "precisions"} == {5}
    streamed = {(c.precision, c.chunk) for b, c in cells if b == "memory" and c.chunk}
    assert streamed >= {(p, chunk) for p in ("fp32", "int8") for chunk in (rules.CHUNK, 1)}


def test_more_queries_take_longer_at_a_rate_that_grows_with_the_root():
    (one,) = training("lenet5", "mnist", ("elastic-2",), seeds=[0], epochs=1)
    more = with_queries(one, 4)
    assert 3 * cost.seconds(one) < cost.seconds(more) <= 4 * cost.seconds(one)
    assert more.hyper.lr == pytest.approx(2 * one.hyper.lr) and more.hyper.queries == 4
    elastic, bp, *_ = experiments.find("long").runs()
    (one,) = training("lenet5", "mnist", ("elastic-2",), seeds=[0], epochs=2, precision="int8")
    assert (elastic.method, bp.method) == ("elastic-2", "full-bp")
    assert elastic.hyper == replace(one.hyper, queries=8, rate=round(one.hyper.rate * 8**0.5))


def test_fine_tuning_with_more_queries_starts_where_that_with_one_and_full_bp_do():
    found = PRESETS["paper"].runs(("fine-tuning", "fine-tuning-queries"))
    others = {(r.method, r.data, r.precision, r.seed): r for r in found["fine-tuning"]}
    seeds: dict[str, set[int]] = {}
    for run in found["fine-tuning-queries"]:
        seeds.setdefault(run.data, set()).add(run.seed)
        assert run.start == others["full-bp", run.data, run.precision, run.seed].start
        if run.seed not in SEEDS:
            continue
        once = others["elastic-1", run.data, run.precision, run.seed]
        more = with_queries(once, 8)
        if run.precision == "fp32":
            more = replace(more, hyper=replace(more.hyper, lr=2 * more.hyper.lr))
        assert run == more and run.start == once.start
    assert seeds == {"mnist-rot30": {0, 1, 2, 3, 4}, "mnist-rot45": {0, 1, 2}}


# Measured CPU seconds of a cell, its process's start included.
CELL_SECONDS = {"memory lenet5": 5.0, "memory pointnet": 19.0, "float_operations lenet5": 6.0}


def test_the_quick_preset_fits_eight_of_its_ten_minutes_on_two_cores():
    cells = {cell for part in PRESETS["quick"].cells for cell in part.cases()}
    beside = sum(CELL_SECONDS.get(f"{b} {c.model}", 0.0) for b, c in cells) / 2
    alone = sum(24.0 for b, _ in cells if b == "precisions")
    assert sum(map(cost.seconds, runs_of("quick"))) / 2 + beside + alone < 8 * 60


@pytest.mark.parametrize(
    ("precision", "names"), [("fp32", {"eps", "lr", "clip"}), ("int8", {"rate", "r_max", "p_zero"})]
)
def test_sensitivity_changes_one_hyperparameter_at_a_time(precision, names):
    found = PRESETS["paper"].runs(("sensitivity",))["sensitivity"]
    for method in ("full-zo", "elastic-2"):
        mine = [r for r in found if (r.method, r.precision) == (method, precision)]
        centre, *others = [asdict(run.hyper) for run in mine]
        changed = [{n for n in centre if other[n] != centre[n]} for other in others]
        assert all(len(each) == 1 for each in changed)
        assert set.union(*changed) >= names
        assert ("mu" in set.union(*changed)) == (precision == "int8" and method == "elastic-2")


def test_hyperparameters_come_from_the_nearest_data_that_were_searched():
    mnist = tuned("lenet5", "mnist", "full-zo")
    assert tuned("lenet5", "mnist-rot30", "full-zo") == mnist
    digits = tuned("lenet5", "digits", "full-zo")
    assert tuned("lenet5", "digits-rot30", "full-zo") == digits != Hyper()
    assert tuned("lenet5", "shapes", "full-zo") == Hyper()
    split = tuned("lenet5", "mnist", "elastic-4")
    assert split == tuned("lenet5", "mnist", "elastic-2")
    lean = tuned("lenet5", "mnist", "elastic-lean-3")
    assert tuned("lenet5", "fashion-mnist", "elastic-lean-3") == lean != Hyper()
    assert tuned("lenet5", "fashion-mnist", "elastic-lean-4") == lean


def test_every_lean_run_has_a_lean_form_s_settings():
    for experiment in PRESETS["paper"].experiments.values():
        for run in experiment.runs():
            if "lean" in run.method:
                assert (run.hyper.momentum, run.hyper.bp_gradient) == (0.0, "last")


def test_fine_tuning_has_hyperparameters_of_its_own_where_they_were_searched(monkeypatch):
    chosen = {"lenet5/mnist to mnist-rot30/full-zo": {"lr": 0.5}}
    monkeypatch.setattr("ezo.tuned._table", lambda: chosen)
    assert tuned("lenet5", "mnist-rot30", "full-zo") == Hyper()
    for data in ("mnist", "fashion-mnist"):
        for angle in (30, 45):
            found = tuned("lenet5", f"{data}-rot{angle}", "full-zo", start=data)
            assert found == Hyper(lr=0.5)
    runs = fine_tuning("mnist", angles=[30], seeds=[0], epochs=1, before=1, precision="fp32")
    assert {r.hyper.lr for r in runs if r.method == "full-zo"} == {0.5}


def test_a_run_that_starts_afresh_is_named_as_before_runs_could_start_from_others():
    run = Run("lenet5", "digits", "full-zo", hyper=Hyper())
    settings = asdict(run)
    for name in ("start", "chunk", "weights", "estimator"):
        del settings[name]
    for name in ("lr_node", "sigma", "eta"):  # came later
        del settings["hyper"][name]
    tag = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    assert run.case.endswith(tag) and not {"start", "chunk"} & set(run.settled().config)


# Experiments not all of whose runs are done.
TO_COME = ("fashion-mnist", "fine-tuning", "nodes", "noises", "pointnet-upright")


def test_every_committed_run_is_one_of_the_paper_preset():
    reports = Path(__file__).resolve().parents[1] / "reports"
    every = [r for of in ("paper", "nodes") for r in rows.read(reports / of / "rows.jsonl.gz")]
    there = {r.case: r for r in every if r.seed is not None}
    kinds = {run.case: kind for kind, runs in PRESETS["paper"].runs().items() for run in runs}
    to_come = {run.case for name in TO_COME for run in experiments.find(name).runs()}
    assert len(there) > 300
    for case, row in there.items():
        if row.config.get("magnitude") == "relative":  # was deleted; its rows are history
            assert case not in kinds
        else:
            assert kinds[case] == select.experiment(row)
    assert set(kinds) - to_come <= set(there)


TOLD = """
import json, sys
# Not the finder of the editable install, which leads to the tree that was copied.
sys.meta_path = [f for f in sys.meta_path if "ScikitBuild" not in type(f).__name__]
sys.path.insert(0, sys.argv[1])
import ezo
assert ezo.__file__.startswith(sys.argv[1]), ezo.__file__
from bench import peers
from ezo import catalogue
from reproduce.presets import PRESETS
print(json.dumps([
    [catalogue.names(kind) for kind in ("precision", "method", "model", "data")]
    + [peers.names()],
    {
        name: [
            {k: [r.case for r in runs] for k, runs in preset.runs().items()},
            [repr(cell) for part in preset.cells for cell in part.cases()],
        ]
        for name, preset in PRESETS.items()
    },
]))
"""
DROPPED = {  # a copy of this file, under another name of its own
    "ezo/precisions/fp32.py": ('NAMES = ("fp32",)', 'NAMES = ("bf16",)'),
    "ezo/methods/full_zo.py": ('NAMES = ("full-zo",)', 'NAMES = ("zo-again",)'),
    "ezo/models/lenet5.py": ('NAMES = ("lenet5",)', 'NAMES = ("lenet6",)'),
    "ezo/data/digits.py": ('"digits"', '"figures"'),
    "bench/peers/torchopt.py": ('"torchopt-', '"torchopt-again-'),
    "reproduce/experiments/digits.py": ("40", "41"),
}


def test_no_preset_gains_or_loses_a_run_when_a_file_is_added(tmp_path):
    root = Path(__file__).resolve().parents[1]
    for part in ("ezo", "bench", "reproduce"):
        ignored = shutil.ignore_patterns("__pycache__", "csrc")
        shutil.copytree(root / part, tmp_path / part, ignore=ignored)

    def told():
        words = [sys.executable, "-c", TOLD, tmp_path]
        return json.loads(
            subprocess.run(words, cwd=tmp_path, capture_output=True, check=True).stdout
        )

    names, before = told()
    for path, (old, new) in DROPPED.items():
        source = (tmp_path / path).read_text()
        assert old in source, path
        (tmp_path / path).with_name("zz_dropped.py").write_text(source.replace(old, new))
    more, after = told()
    assert all(len(b) > len(a) for a, b in zip(names, more, strict=True))
    assert after == before


def test_experiments_are_found_by_lying_in_their_folder():
    assert "fashion-mnist" in experiments.names()
    for name in experiments.names():
        assert experiments.find(name).kind in (*select.KINDS, "sensitivity")
    with pytest.raises(ValueError, match="unknown experiment 'nonsense'; known: .*digits, "):
        experiments.find("nonsense")


def test_a_hyperparameter_that_came_later_renames_a_run_only_where_it_is_used():
    def named(**chosen):
        return Run("lenet5", "mnist", "elastic-1", "int8", hyper=Int8Hyper(**chosen)).case

    assert named(growth=0) == named() != named(growth=2)
    assert named(bp_gradient="plus", zo_growth=0) == named() != named(bp_gradient="mean")
