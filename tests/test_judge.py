"""Judging: verdicts follow from intervals, and every claim from rows alone."""

import gzip
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from made_rows import cell_rows, everything, run_rows

from reproduce import budgets, judge, rules, select, tables
from reproduce.experiments import sign
from reproduce.judge import Claim, finding

REPORTS = Path(__file__).resolve().parents[1] / "reports"
PRINTED = Claim("c", "text", "+5 to +10", 5.0, 10.0, "points", "n", "s")
ABOVE_ZERO = replace(PRINTED, low=0.0, high=math.inf, strict=True)
AT_MOST = replace(PRINTED, low=-math.inf, high=1.7, better="lower")
RANGE_BELOW = replace(AT_MOST, low=0.1)


@pytest.mark.parametrize(
    ("claim", "samples", "verdict"),
    [
        (PRINTED, [7.0, 7.2, 7.1], "reproduced"),
        (PRINTED, [12.0, 12.1, 12.2], "exceeded"),
        (PRINTED, [1.0, 1.1, 1.2], "contradicted"),
        (PRINTED, [5.0, 5.1, 7.0], "undecided"),  # the mean is as printed, the interval is not
        (PRINTED, [3.0, 4.0, 7.0], "undecided"),  # below what is printed, but not surely
        (PRINTED, [7.0, 7.2], "undecided"),  # too few
        (PRINTED, [5.0, 5.0, 5.0], "reproduced"),
        (PRINTED, [], "not run"),
        (PRINTED, [7.0, math.nan, 7.1], "not reproducible as specified"),
        (ABOVE_ZERO, [1.0, 1.1, 1.2], "reproduced"),
        (ABOVE_ZERO, [-1.0, 1.1, 1.2], "undecided"),
        (ABOVE_ZERO, [0.0, 0.0, 0.0], "contradicted"),  # no effect is none above 0
        (ABOVE_ZERO, [-1.0, -1.1, -1.2], "contradicted"),
        (AT_MOST, [1.0, 1.1, 1.2], "reproduced"),
        (AT_MOST, [1.6, 1.7, 1.8], "undecided"),
        (AT_MOST, [1.8, 1.81, 1.82], "contradicted"),
        (RANGE_BELOW, [0.01, 0.011, 0.012], "exceeded"),
    ],
)
def test_a_verdict_follows_from_the_interval(claim, samples, verdict):
    assert finding(claim, "a minus b", samples, True, ()).verdict == verdict
    assert verdict in judge.VERDICTS


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "reproduced"), (1.8, "contradicted")])
def test_an_exact_number_is_judged_alone(value, verdict):
    assert finding(AT_MOST, "a over b", [value], True, (), exact=True).verdict == verdict


def test_a_reduced_preset_gives_verdicts_on_what_is_exact_alone():
    assert finding(AT_MOST, "a over b", [1.0], False, (), exact=True).verdict == "reproduced"
    for samples in ([7.0, 7.2, 7.1], [1.0, 1.1, 1.2], [12.0]):
        assert finding(PRINTED, "a minus b", samples, False, ()).verdict == "indication only"


def test_the_interval_is_students():
    mean, low, high = judge.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # t, 2 degrees of freedom
    assert mean - low == pytest.approx(high - mean)
    assert judge.interval([5.0]) == (5.0, -math.inf, math.inf)
    _, narrow, _ = judge.interval([1.0, 2.0, 3.0], 0.9)
    assert mean - narrow == pytest.approx(2.919985580355516 / math.sqrt(3))


def test_ratios_are_averaged_as_logarithms():
    found = finding(ABOVE_ZERO, "a over b", [0.5, 1.0, 2.0], True, (), ratio=True)
    assert found.value == pytest.approx(1.0)
    assert found.low * found.high == pytest.approx(1.0)


def test_no_verdict_is_between_unequal_searches_and_none_of_a_baseline_that_has_not_learnt():
    def verdict(**why):
        return finding(ABOVE_ZERO, "a minus b", [1.0, 1.1, 1.2], True, (), **why)

    unfair = verdict(unfair="searched unequally")
    assert (unfair.verdict, unfair.note) == ("indication only", "searched unequally")
    assert verdict(void="at chance").verdict == "not reproducible as specified"


SEARCHES = {  # files of trials, but for those of which it was settled before that they choose none
    ("mnist", "fp32"): ("lenet5-mnist", "lenet5-nodes-by-hand", "lenet5-elastic-lean-by-hand"),
    ("mnist", "int8"): ("lenet5-mnist-int8-by-hand", "lenet5-mnist-full-zo-node-int8-by-hand"),
    ("fashion-mnist", "fp32"): ("lenet5-elastic-lean-by-hand",),
    ("fashion-mnist", "int8"): ("lenet5-fashion-mnist-int8-by-hand",),
    ("shapes-upright-64", "fp32"): (
        *("pointnet-nodes-by-hand", "pointnet-centred-by-hand", "pointnet-controls"),
        *("pointnet-full-zo", "pointnet-240-epochs"),
    ),
}


def test_trials_behind_a_runs_values_are_those_that_were_made():
    assert budgets.TRIALS.keys() == SEARCHES.keys()
    for (data, precision), names in SEARCHES.items():
        made = {
            row["case"]: row["method"]
            for name in names
            for row in _rows(REPORTS / "search" / f"{name}.jsonl.gz")
            if row["metric"] == "test_accuracy" and row["data"] == data
        }
        assert Counter(made.values()).items() <= _own(data, precision).items()
    of_sign = _rows(REPORTS / "search/lenet5-mnist-int8-sign.jsonl.gz")
    made = {row["case"]: row["method"] for row in of_sign}
    assert Counter(made.values()) == budgets.SIGN
    assert {row["config"]["magnitude"] for row in of_sign} == {"sign"}
    ends = [row for row in of_sign if row["metric"] == "test_accuracy" and row["step"] == 31240]
    for run in sign.runs():
        tried = [row for row in ends if row["method"] == run.method]
        best = max(tried, key=lambda row: row["value"])["config"]
        names = ("rate", "p_zero", "mu", "mu_drop", "magnitude", "fraction", "schedule", "r_max")
        assert {n: getattr(run.hyper, n) for n in names} == {n: best[n] for n in names}
    assert budgets.trials("training", "shapes-upright-64", "fp32", "full-bp") == 0
    assert budgets.trials("training", "shapes-upright-64", "fp32", "elastic-2") == 18
    assert budgets.trials("training", "fashion-mnist-rot30", "int8*", "elastic-1") == 41
    assert budgets.trials("training", "digits", "fp32", "full-zo") == 0
    assert budgets.trials("training", "fashion-mnist", "fp32", "elastic-lean-3") == 12


def _own(data, precision):
    of = budgets.TRIALS[data, precision]
    return {method: n for method, n in of.items() if n}


def _rows(path):
    with gzip.open(path) as lines:
        return [json.loads(line) for line in lines]


def test_unequal_searches_are_told_by_method_and_precision():
    ends = [run_rows("elastic-1", 0, 80.0)[-2], run_rows("full-zo", 0, 80.0)[-2]]
    assert budgets.unequal(ends) == ""
    told = budgets.unequal([*ends, run_rows("full-zo", 0, 80.0, precision="int8")[-2]])
    assert told == (
        "searched unequally, trials: 10 of elastic-1 in fp32, 10 of full-zo in fp32, 14 of full-zo "
        "in int8"
    )


def test_nothing_but_the_paper_s_data_has_a_verdict_of_accuracy():
    made = [
        row
        for seed in range(3)
        for method, end in (("full-zo-node", 60.0), ("full-zo", 30.0))
        for row in run_rows(method, seed, end + seed, data="shapes-upright-64")
    ]
    found = [f for f in judge.judge(made, True) if f.value is not None]
    assert {f.claim for f in found} >= {"node-gain"}
    assert {f.verdict for f in found} == {"indication only"}


def test_full_zo_near_guessing_is_no_baseline():
    made = []
    for seed in range(3):
        for method, accuracy in (("full-zo", 9.0 + seed), ("elastic-1", 60.0), ("full-bp", 90.0)):
            made += run_rows(method, seed, accuracy, data="shapes-256")
    found = findings(made)
    for claim in ("gain", "gap", "convergence"):
        of_elastic = found[claim, "elastic-1"]
        assert of_elastic.verdict == "not reproducible as specified"
        assert "full-zo ends at 10.0 %, where guessing gives 6.25 %" in of_elastic.note
    learnt = next(
        row
        for row in run_rows("full-zo", 0, 11.3, data="shapes-256")
        if (row.metric, row.step) == ("test_accuracy", 10)
    )
    assert rules.no_baseline([learnt]) == rules.no_baseline([]) == ""


def test_every_claim_has_a_margin_with_its_reason_and_every_sentence_a_claim():
    ids = {module.CLAIM.id for module in judge.claims()}
    assert set(rules.MARGINS) >= ids
    of_paper = {m.CLAIM.id for m in judge.claims() if m.CLAIM.source.startswith("paper")}
    primary = {sentence.claim for sentence in rules.PRIMARY}
    assert primary <= ids and of_paper - primary == {"fine-tune"}  # its recovery is harder
    assert len(primary) == len(rules.PRIMARY)


def test_primary_comparisons_are_named_as_the_claims_name_them():
    """All but the streamed ones, which the committed rows don't have."""
    told = json.loads((REPORTS / "paper/claims.json").read_text())
    found = {(finding["claim"], finding["comparison"]) for finding in told}
    named = {
        (sentence.claim, text.format(data="mnist"))
        for sentence in rules.PRIMARY
        for text in (sentence.compared, *sentence.beside)
    }
    assert all("both streamed" in text for _, text in named - found)


def test_samples_that_are_known_between_two_ends_widen_the_interval_by_both():
    plain = finding(ABOVE_ZERO, "a over b", [2.0, 4.0, 8.0], True, (), ratio=True)
    wide = finding(
        ABOVE_ZERO, "a over b", [2.0, 4.0, 8.0], True, (), ratio=True, upper=[4.0, 8.0, 16.0]
    )
    assert (wide.value, wide.low, wide.bound) == (plain.value, plain.low, "")
    assert wide.high == pytest.approx(2 * plain.high)


def test_a_sample_without_an_upper_end_makes_a_bound():
    upper = [math.inf, 30.0, 30.0]
    found = finding(ABOVE_ZERO, "a over b", [20.0] * 3, True, (), ratio=True, upper=upper)
    assert found.bound == "at least" and found.high == math.inf
    assert found.value == pytest.approx(20.0) and found.low == pytest.approx(20.0)
    assert found.verdict == "reproduced"
    assert finding(PRINTED, "a", [4.0] * 3, True, (), upper=upper).verdict == "undecided"


def test_a_finding_says_what_it_was_held_against_and_names_each_case_once():
    found = finding(PRINTED, "a", [7.0] * 3, True, ("x", "y", "x"))
    assert (found.claimed, found.cases) == ("5 to 10 points", ("x", "y"))
    assert judge.claimed(ABOVE_ZERO) == "above 0 points"
    assert judge.claimed(replace(ABOVE_ZERO, strict=False)) == "at least 0 points"
    assert judge.claimed(AT_MOST) == "at most 1.7 points"


def findings(rows, full=True):
    return {(f.claim, f.comparison.split(",")[0].split()[0]): f for f in judge.judge(rows, full)}


def test_gain_is_paired_by_seed_and_leaves_out_runs_that_did_not_finish():
    made = [
        row
        for seed, (zo, ours) in enumerate([(80.0, 88.0), (82.0, 89.0), (84.0, 92.0)])
        for row in run_rows("full-zo", seed, zo) + run_rows("elastic-1", seed, ours)
    ]
    made += run_rows("full-zo", 3, 85.0) + run_rows("elastic-1", 3, 1.0, end="diverged")
    gain = findings(made)["gain", "elastic-1"]
    assert (gain.seeds, gain.verdict) == (3, "reproduced")
    assert gain.value == pytest.approx((8 + 7 + 8) / 3)


def test_gain_is_judged_of_long_runs_too_by_themselves():
    made = []
    for seed in range(3):
        for method, accuracy in (("full-zo", 80.0), ("elastic-1", 88.0)):
            made += run_rows(method, seed, accuracy, experiment="long", epochs=150)
    (gain,) = (f for f in judge.judge(made, True) if f.claim == "gain")
    assert gain.comparison.endswith("150 epochs, 1 queries a step") and gain.value == 8.0


def test_the_experiment_of_a_row_is_its_field_and_once_stood_in_its_config():
    old = run_rows("full-zo", 0, 80.0, experiment="long")[-1]
    new = replace(run_rows("full-zo", 0, 80.0)[-1], experiment="long")
    assert select.experiment(old) == select.experiment(new) == "long"
    assert select.experiment(run_rows("full-zo", 0, 80.0)[-1]) == "training"


def test_trials_sensitivity_and_fine_tuning_are_not_taken_for_training():
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 80.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-1", seed, 88.0)]
    made += run_rows("elastic-1", 0, 20.0, held_out=100)
    made += run_rows("elastic-1", 1, 20.0, experiment="sensitivity")
    made += run_rows("elastic-1", 2, 20.0, start="another-run")
    assert findings(made)["gain", "elastic-1"].value == pytest.approx(8.0)


def test_stand_in_data_give_indications_for_every_claim_of_accuracy():
    made = [
        row
        for seed in range(3)
        for method, accuracy in (("full-zo", 80.0), ("elastic-1", 88.0), ("tail-only-1", 70.0))
        for row in run_rows(method, seed, accuracy + seed / 10, data="shapes-256")
    ]
    found = findings(made)
    assert found["gain", "elastic-1"].verdict == "indication only"
    assert found["ablation", "elastic-1"].verdict == "indication only"


def test_more_queries_are_compared_with_one_and_not_taken_for_it():
    made = []
    for seed in range(3):
        made += run_rows("elastic-2", seed, 97.0 + seed)
        made += run_rows("elastic-2", seed, 97.5 + seed, experiment="queries", queries=4)
        made += run_rows("full-zo", seed, 90.0 + seed)
    found = findings(made)
    assert found["queries", "elastic-2"].value == pytest.approx(0.5)
    assert found["queries", "elastic-2"].verdict == "reproduced"
    assert found["gain", "elastic-2"].value == pytest.approx(7.0)


def test_near_bp_compares_runs_of_as_many_epochs_and_fine_tuning_the_same_weights():
    made = []
    for seed in range(3):
        for epochs, kind, gap in ((20, "training", 3.0), (50, "long", 1.0)):
            config = {"epochs": epochs, "experiment": kind, "precision": "int8"}
            made += run_rows("elastic-2", seed, 99.0 - gap + seed, queries=8, **config)
            made += run_rows("full-bp", seed, 99.0 + seed, **config)
        tuned = {"data": "mnist-rot30", "first": 60.0, "start": "other"}
        made += run_rows("full-bp", seed, 80.0, **tuned)
        made += run_rows("elastic-1", seed, 74.0, **tuned)
        more = {"experiment": "fine-tuning-queries", "queries": 8}
        made += run_rows("elastic-1", seed, 78.0, **tuned, **more)
    found = {f.comparison: f for f in judge.judge(made, True)}
    near = "full-bp minus elastic-2, lenet5 on mnist, int8"
    assert found[near].value == pytest.approx(3.0) and found[near].verdict == "indication only"
    long = found[f"{near}, 50 epochs, 8 queries a step"]
    assert long.value == pytest.approx(1.0) and "searched unequally" in long.note
    tuned = "elastic-1 over full-bp, lenet5 on mnist-rot30, fp32"
    assert found[tuned].value == pytest.approx(70.0)
    assert found[f"{tuned}, 2 epochs, 8 queries a step"].value == pytest.approx(90.0)


def test_memory_claims_compare_peaks():
    peaks = {"inference": 1000, "full-zo": 1010, "elastic-1": 1020, "elastic-2": 1100}
    made = cell_rows("peak_tensor_bytes", peaks)
    made += cell_rows("peak_tensor_bytes", {"full-zo": 505, "elastic-1": 680}, precision="int8")
    found = findings(made)
    assert found["inference-memory", "full-zo"].value == pytest.approx(1.0)
    assert found["overhead", "elastic-2"].verdict == "contradicted"
    assert found["int8-memory", "full-zo"].value == pytest.approx(2.0)
    assert found["int8-memory", "full-zo"].verdict == "exceeded"
    assert found["int8-memory", "elastic-1"].verdict == "reproduced"


def test_streamed_steps_are_compared_with_streamed_ones_in_tensors_and_heap():
    made = cell_rows("peak_tensor_bytes", {"full-zo": 1010}, chunk=rules.CHUNK)
    made += cell_rows("peak_tensor_bytes", {"full-zo": 400}, precision="int8", chunk=rules.CHUNK)
    made += cell_rows("heap_peak_bytes", {"full-zo": 1500}, chunk=rules.CHUNK)
    made += cell_rows("heap_peak_bytes", {"full-zo": 500}, precision="int8", chunk=rules.CHUNK)
    made += cell_rows("peak_tensor_bytes", {"full-zo": 101}, precision="int8")  # whole: no pair
    found = {f.comparison: f for f in judge.judge(made, False) if f.claim == "int8-memory"}
    (sentence,) = (s for s in rules.PRIMARY if s.claim == "int8-memory")
    assert found[sentence.compared].value == pytest.approx(2.525)
    assert found[sentence.compared].verdict == "exceeded"
    assert found[sentence.beside[0]].value == pytest.approx(3.0)
    assert len(found) == 2


def test_time_needs_three_rounds_of_both_precisions():
    made = cell_rows("turn_seconds", {"full-zo": [2.8, 2.9, 2.7]}, unit="s")
    assert findings(made)["int8-time", "-"].verdict == "not run"
    once = cell_rows("turn_seconds", {"full-zo": 2.0}, precision="int8", unit="s")
    assert findings(made + once)["int8-time", "full-zo"].verdict == "undecided"
    thrice = cell_rows("turn_seconds", {"full-zo": [1.9, 2.0, 1.85]}, precision="int8", unit="s")
    found = findings(made + thrice)["int8-time", "full-zo"]
    assert found.verdict == "exceeded"
    assert found.value == pytest.approx((2.8 * 2.9 * 2.7 / (1.9 * 2.0 * 1.85)) ** (1 / 3))
    faster = {"full-zo": [2.0, 2.1, 3.0]}
    made += cell_rows("turn_seconds", faster, unit="s", layout="channels_last")
    made += cell_rows("turn_seconds", {"full-zo": [2.2] * 3}, unit="s", layout="compiled")
    found = findings(made + thrice)["int8-time", "full-zo"]
    assert found.value == pytest.approx((2.0 * 2.1 * 3.0 / (1.9 * 2.0 * 1.85)) ** (1 / 3))
    assert found.note == "fp32: channels_last, the fastest of 3"


@pytest.mark.parametrize(
    ("losses", "verdict"),
    [((0.1, 0.0, -0.1), "reproduced"), ((5.0, 5.1, 4.9), "contradicted")],
)
def test_int8_is_as_accurate_when_it_loses_less_than_a_point(losses, verdict, monkeypatch):
    monkeypatch.setattr(budgets, "unequal", lambda ends: "")
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 80.0 + seed)]
    for seed, loss in enumerate(losses):
        made += run_rows("full-zo", seed, 80.0 + seed - loss, precision="int8")
    found = findings(made)["int8-accuracy", "full-zo"]
    assert (found.verdict, found.claimed) == (verdict, "at least -1 points")


def test_the_paper_s_form_of_int8_is_judged_apart_and_searched_for_as_much_as_floats():
    made = []
    for seed in range(3):
        made += run_rows("elastic-2", seed, 90.0)
        made += run_rows("elastic-2", seed, 89.9, precision="int8")
        sign = run_rows("elastic-2", seed, 80.0 + seed, precision="int8", magnitude="sign")
        made += [replace(row, experiment="sign") for row in sign]
    found = [f for f in judge.judge(made, True) if f.claim == "int8-accuracy"]
    ours, printed = found
    assert ours.comparison == "elastic-2, lenet5 on mnist, int8 minus fp32"
    assert (ours.value, ours.verdict) == (pytest.approx(-0.1), "indication only")
    assert printed.comparison == f"{ours.comparison}, the paper's form"
    assert (printed.value, printed.verdict, printed.note) == (-9.0, "contradicted", "90 % interval")


def test_what_is_ours_is_left_out_of_the_counts_of_the_paper_s_claims():
    peaks = {"full-zo": 100, "elastic-2": 101, "elastic-lean-2": 100, "full-zo-node": 100}
    found = judge.judge(cell_rows("peak_tensor_bytes", {**peaks, "inference": 100}), True)
    of = {each.claim.id: each for each in tables.judged((m.CLAIM for m in judge.claims()), found)}
    overhead, memory = of["overhead"], of["node-memory"]
    assert {line.finding.comparison.split()[0] for line in overhead.lines} == {
        "elastic-2",
        "elastic-lean-2",
    }
    assert [count.number for count in overhead.counts] == [1]
    assert [count.number for count in memory.counts] == [1]  # a claim of ours


def test_one_floating_point_operation_contradicts_integers_only():
    for count, verdict in ((0, "reproduced"), (1, "contradicted")):
        made = cell_rows("float_operations", {"full-zo": count}, precision="int8", unit="1")
        assert findings(made)["int8-only", "full-zo"].verdict == verdict


def test_fine_tuning_is_measured_from_the_weights_that_were_given():
    made = []
    for seed in range(3):
        for method, end in (("elastic-1", 89.0), ("full-bp", 90.0)):
            accuracy = end + seed / 100
            made += run_rows(
                method, seed, accuracy, data="mnist-rot30", first=70.0, start="another-run"
            )
    found = findings(made)
    assert found["fine-tune", "elastic-1"].value == pytest.approx(19.01)
    recovery = found["fine-tune-recovery", "elastic-1"]
    assert recovery.verdict == "reproduced" and recovery.value == pytest.approx(95, abs=0.1)


def test_convergence_counts_passes_until_full_zos_last_accuracy():
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 40.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-1", seed, 90.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-2", seed, 30.0)]
    found = findings(made)
    half = found["convergence", "elastic-1"]  # there by the first evaluation, half of the run
    assert half.value == pytest.approx(2.0) and (half.bound, half.high) == ("at least", math.inf)
    assert "3 of 3 seeds" in half.note
    assert found["convergence", "elastic-2"].verdict == "not reproducible as specified"


def test_convergence_lies_between_the_evaluation_at_the_goal_and_the_one_before():
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 60.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-1", seed, 90.0)]
    found = findings(made)["convergence", "elastic-1"]
    assert (found.value, found.low, found.bound) == (pytest.approx(1.0), pytest.approx(1.0), "")
    assert found.high == pytest.approx(2.0)


def test_node_perturbation_is_held_against_the_target_of_its_data():
    made = []
    for seed in range(3):
        made += run_rows("full-zo-node", seed, 95.0 + seed / 10)
        made += run_rows("full-zo-node", seed, 84.0 + seed / 10, data="fashion-mnist")
        made += run_rows("full-zo", seed, 94.0 + seed / 7)
    every = [f for f in judge.judge(made, True) if f.claim.startswith("node-") and f.cases]
    found = {f.comparison: f for f in every}
    assert len(every) == len(found) == 3
    on_mnist = found["full-zo-node, lenet5 on mnist, fp32"]
    assert (on_mnist.verdict, on_mnist.claimed) == ("contradicted", "at least 96 %")
    other = found["full-zo-node, lenet5 on fashion-mnist, fp32"]
    assert (other.verdict, other.claimed) == ("reproduced", "at least 83 %")
    gain = found["full-zo-node minus full-zo, lenet5 on mnist, fp32"]
    assert gain.verdict == "indication only" and gain.value == pytest.approx(0.957, abs=1e-3)
    assert "trials" in gain.note


def test_there_is_no_gap_to_close_where_bp_is_not_better():
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 90.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-1", seed, 95.0)]
    made += [row for seed in range(3) for row in run_rows("full-bp", seed, 80.0)]
    assert findings(made)["gap", "elastic-1"].verdict == "not reproducible as specified"


def test_every_claim_is_complete_and_judges_rows_and_says_not_run_without():
    ids = [module.CLAIM.id for module in judge.claims()]
    assert len(ids) == len(set(ids))
    for module in judge.claims():
        claim = module.CLAIM
        assert claim.text and claim.unit and claim.source and claim.low < claim.high
        assert claim.needs and claim.statistic and claim.margin
        assert claim.better in ("higher", "lower")
        found = module.judge(everything(), True)
        assert found and all(f.claim == claim.id and f.cases for f in found)
        assert module.judge([], True) == []
    assert [f.verdict for f in judge.judge([], True)] == ["not run"] * len(ids)


def test_the_papers_claims_are_all_there():
    of_paper = {m.CLAIM.id for m in judge.claims() if m.CLAIM.source.startswith("paper")}
    assert of_paper == {
        "gain",
        "overhead",
        "int8-memory",
        "int8-time",
        "int8-accuracy",
        "int8-only",
        "fine-tune",
        "gap",
        "convergence",
        "inference-memory",
    }
