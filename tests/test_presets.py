"""Presets: runs that exist, none twice, in the time that is promised."""

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ezo import rows
from ezo.methods import Hyper
from ezo.precisions.int8 import Int8Hyper
from ezo.train import Run
from reproduce import cost, presets
from reproduce.presets import PRESETS


def runs_of(preset, only=()):
    return [run for found in PRESETS[preset].runs(only).values() for run in found]


@pytest.mark.parametrize("name", PRESETS)
def test_presets_hold_runs_that_exist_and_no_run_twice(name):
    cases = [run.case for run in runs_of(name)]
    assert cases and len(cases) == len(set(cases))


def test_the_paper_preset_has_three_seeds_of_every_method_on_both_data_sets():
    assert PRESETS["paper"].full and not PRESETS["quick"].full
    training = PRESETS["paper"].runs()["training"]
    for data in ("mnist", "fashion-mnist"):
        for method in presets.ACCURACY_METHODS:
            mine = [
                r for r in training if (r.data, r.method, r.precision) == (data, method, "fp32")
            ]
            seeds = {0, 1, 2, 3, 4} if method == "full-bp" else {0, 1, 2}
            assert {run.seed for run in mine} == seeds and {run.epochs for run in mine} == {20}


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
            assert run.hyper.r_max << run.hyper.zo_growth == presets.GENTLE
    assert {run.data for run in tuned} == {
        f"{data}-rot{angle}" for data in ("mnist", "fashion-mnist") for angle in (30, 45)
    }


def test_the_paper_preset_fits_eight_hours_on_two_cores_with_integers_too():
    every = [run for e in PRESETS["paper"].experiments.values() for run in e.runs()]
    assert {run.precision for run in every} == {"fp32", "int8", "int8*"}
    assert sum(map(cost.seconds, every)) / 2 < 8 * 3600


def test_more_queries_take_longer_at_a_rate_that_grows_with_the_root():
    (one,) = presets.training("lenet5", "mnist", ("elastic-2",), seeds=[0], epochs=1)
    (more,) = presets.more_queries("mnist", seeds=[0], epochs=1)
    assert 3 * cost.seconds(one) < cost.seconds(more) <= 4 * cost.seconds(one)
    assert more.hyper.lr == pytest.approx(2 * one.hyper.lr) and more.hyper.queries == 4
    elastic, bp = presets.near_bp("mnist", seeds=[0], epochs=2)
    (one,) = presets.training(
        "lenet5", "mnist", ("elastic-2",), seeds=[0], epochs=2, precision="int8"
    )
    assert (elastic.method, bp.method) == ("elastic-2", "full-bp")
    assert elastic.hyper == replace(one.hyper, queries=8, rate=round(one.hyper.rate * 8**0.5))


def test_fine_tuning_with_more_queries_starts_where_that_with_one_and_full_bp_do():
    found = PRESETS["paper"].runs(("fine-tuning", "fine-tuning-queries"))
    others = {(r.method, r.data, r.precision, r.seed): r for r in found["fine-tuning"]}
    seeds: dict[str, set[int]] = {}
    for run in found["fine-tuning-queries"]:
        seeds.setdefault(run.data, set()).add(run.seed)
        assert run.start == others["full-bp", run.data, run.precision, run.seed].start
        if run.seed not in presets.SEEDS:
            continue
        once = others["elastic-1", run.data, run.precision, run.seed]
        more = presets.with_queries(once, 8)
        if run.precision == "fp32":
            more = replace(more, hyper=replace(more.hyper, lr=2 * more.hyper.lr))
        assert run == more and run.start == once.start
    assert seeds == {"mnist-rot30": {0, 1, 2, 3, 4}, "mnist-rot45": {0, 1, 2}}


def test_the_quick_preset_fits_ten_minutes_on_two_cores():
    assert sum(map(cost.seconds, runs_of("quick"))) / 2 < 8 * 60


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
    mnist = presets.hyper("lenet5", "mnist", "full-zo")
    assert presets.hyper("lenet5", "mnist-rot30", "full-zo") == mnist
    assert presets.hyper("lenet5", "digits", "full-zo") == Hyper()
    split = presets.hyper("lenet5", "mnist", "elastic-4")
    assert split == presets.hyper("lenet5", "mnist", "elastic-2")
    lean = presets.hyper("lenet5", "mnist", "elastic-lean-3")
    assert presets.hyper("lenet5", "fashion-mnist", "elastic-lean-3") == lean != Hyper()
    assert presets.hyper("lenet5", "fashion-mnist", "elastic-lean-4") == lean


def test_every_lean_run_has_a_lean_form_s_settings():
    for experiment in PRESETS["paper"].experiments.values():
        for run in experiment.runs():
            if "lean" in run.method:
                assert (run.hyper.momentum, run.hyper.bp_gradient) == (0.0, "last")


def test_fine_tuning_has_hyperparameters_of_its_own_where_they_were_searched(monkeypatch):
    chosen = {"lenet5/mnist to mnist-rot30/full-zo": {"lr": 0.5}}
    monkeypatch.setattr("ezo.tuned._table", lambda: chosen)
    assert presets.hyper("lenet5", "mnist-rot30", "full-zo") == Hyper()
    for data in ("mnist", "fashion-mnist"):
        for angle in presets.ANGLES:
            found = presets.hyper("lenet5", f"{data}-rot{angle}", "full-zo", start=data)
            assert found == Hyper(lr=0.5)
    runs = presets.fine_tuning("mnist", seeds=[0], epochs=1, before=1, precision="fp32")
    assert {r.hyper.lr for r in runs if r.method == "full-zo"} == {0.5}


def test_a_run_that_starts_afresh_is_named_as_before_runs_could_start_from_others():
    run = Run("lenet5", "digits", "full-zo", hyper=Hyper())
    settings = asdict(run)
    del settings["start"]
    tag = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    assert run.case.endswith(tag) and "start" not in run.config()


def test_the_committed_rows_of_the_paper_are_found_by_name():
    root = Path(__file__).resolve().parents[1]
    ends = {
        row.precision: row
        for row in rows.read(root / "reports/paper/rows.jsonl.gz")
        if row.metric == "finished"
    }
    assert set(ends) == {"fp32", "int8", "int8*"}
    for row in ends.values():
        kind = type(presets.hyper(row.model, row.data, row.method, row.precision))
        hyper = kind(**{n: row.config[n] for n in asdict(kind()) if n in row.config})
        run = Run(
            *(row.model, row.data, row.method, row.precision),
            epochs=row.config["epochs"],
            seed=row.seed,
            hyper=hyper,
        )
        assert run.case == row.case


def test_a_hyperparameter_that_came_later_renames_a_run_only_where_it_is_used():
    def named(**chosen):
        return Run("lenet5", "mnist", "elastic-1", "int8", hyper=Int8Hyper(**chosen)).case

    assert named(growth=0) == named() != named(growth=2)
    assert named(bp_gradient="plus", zo_growth=0) == named() != named(bp_gradient="mean")
