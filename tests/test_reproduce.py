"""Judging and reporting: from rows alone, and honest about what they can't show."""

import gzip
import json
import math
import re
from dataclasses import replace

import pytest

from ezo import rows
from ezo.rows import Row
from ezo.train import Run
from reproduce import judge, presets, report, search
from reproduce.execute import execute
from reproduce.judge import Claim, finding


def run_rows(method, seed, accuracy, *, data="mnist", end="finished"):
    """The rows of a made-up training run of two epochs."""
    case = f"lenet5-{data}-{method}-{seed}"
    config = {
        "epochs": 2,
        "batch_size": 32,
        "lr": 1e-3,
        "eps": 1e-3,
        "clip": 5.0,
        "bp_lr": 0.01,
        "momentum": 0.9,
    }
    row = Row(
        case=case,
        metric="",
        value=None,
        unit="%",
        model="lenet5",
        data=data,
        method=method,
        seed=seed,
        config=config,
        data_checksum="ab" * 32,
    )
    accuracies = [
        replace(row, metric="test_accuracy", value=value, step=step)
        for step, value in ((0, 10.0), (5, accuracy / 2), (10, accuracy))
    ]
    return [*accuracies, replace(row, metric=end, value=10, unit="step", step=10, note="why")]


def memory_rows(peaks):
    return [
        Row(
            case=f"m-{method}",
            metric="peak_tensor_bytes",
            value=value,
            unit="B",
            model="lenet5",
            method=method,
            config={"batch_size": 32},
        )
        for method, value in peaks.items()
    ]


CLAIM = Claim("c", "text", "+5 to +10", 5.0, 10.0, "points")


@pytest.mark.parametrize(
    ("samples", "verdict"),
    [
        ([7.0, 7.2, 7.1], "reproduced"),
        ([12.0, 12.1, 12.2], "exceeded"),
        ([1.0, 1.1, 1.2], "contradicted"),
        ([-4.0, 20.0, 5.0], "within noise"),
        ([7.0, 7.2], "underpowered"),
        ([], "not run"),
    ],
)
def test_a_verdict_follows_from_the_interval(samples, verdict):
    assert finding(CLAIM, "a minus b", samples, True, ()).verdict == verdict


@pytest.mark.parametrize(("value", "verdict"), [(1.0, "reproduced"), (1.8, "contradicted")])
def test_an_upper_bound_is_judged_from_one_exact_number(value, verdict):
    bound = replace(CLAIM, low=-math.inf, high=1.7)
    assert finding(bound, "a over b", [value], True, (), exact=True).verdict == verdict


def test_a_reduced_preset_never_gives_a_verdict():
    for samples in ([7.0, 7.2, 7.1], [1.0, 1.1, 1.2], [12.0]):
        assert finding(CLAIM, "a minus b", samples, False, ()).verdict == "indication only"


def test_the_interval_is_students():
    mean, low, high = judge.interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302652729911275 / math.sqrt(3))  # t, 2 degrees of freedom
    assert mean - low == pytest.approx(high - mean)
    assert judge.interval([5.0]) == (5.0, -math.inf, math.inf)


def test_gain_is_paired_by_seed_and_leaves_out_runs_that_did_not_finish():
    made = [
        row
        for seed, (zo, ours) in enumerate([(80.0, 88.0), (82.0, 89.0), (84.0, 92.0)])
        for row in run_rows("full-zo", seed, zo) + run_rows("elastic-1", seed, ours)
    ]
    made += run_rows("full-zo", 3, 85.0) + run_rows("elastic-1", 3, 1.0, end="diverged")
    gain = next(f for f in judge.judge(made, True) if f.claim == "gain")
    assert (gain.seeds, gain.verdict) == (3, "reproduced")
    assert gain.value == pytest.approx((8 + 7 + 8) / 3)


def test_memory_claims_compare_peaks():
    made = memory_rows({"inference": 1000, "full-zo": 1010, "elastic-1": 1020, "elastic-2": 1100})
    found = {(f.claim, f.comparison.split()[0]): f for f in judge.judge(made, True)}
    assert found["inference-memory", "full-zo"].value == pytest.approx(1.0)
    assert found["overhead", "elastic-1"].verdict == "reproduced"
    assert found["overhead", "elastic-2"].verdict == "contradicted"


def test_every_claim_is_complete_and_says_not_run_without_rows():
    ids = [module.CLAIM.id for module in judge.claims()]
    assert len(ids) == len(set(ids)) >= 5
    for module in judge.claims():
        claim = module.CLAIM
        assert claim.text and claim.unit and claim.source and claim.low < claim.high
        assert [f.verdict for f in module.judge([], True)] == ["not run"]


def test_every_figure_draws_from_rows_and_gives_none_without():
    made = [row for seed in (0, 1) for row in run_rows("full-zo", seed, 80.0 + seed)]
    made += memory_rows({"inference": 1000, "full-zo": 1010})
    frame = report._frame(made)
    for module in report.figures():
        assert module.TITLE and module.CAPTION
        drawn = module.draw(frame)
        assert drawn is not None and all(ax.get_xlabel() for ax in drawn.axes), module.__name__
        assert module.draw(frame[:0]) is None


@pytest.fixture
def reported(tmp_path):
    made = [
        row
        for seed in range(3)
        for m, a in (("full-zo", 80.0), ("elastic-1", 88.0))
        for row in run_rows(m, seed, a + seed)
    ]
    made += run_rows("full-bp", 0, float("nan"), end="diverged")
    made += memory_rows({"inference": 1000, "full-zo": 1010, "elastic-1": 1020})
    rows.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path, "paper", "About <this> preset.", full=True)
    return tmp_path


def test_the_report_is_self_contained_and_shows_verdicts_and_failures(reported):
    html = (reported / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|https://arxiv\.org)', html)
    assert "&lt;this&gt;" in html
    for text in (html, (reported / "REPORT.md").read_text()):
        assert "reproduced" in text and "diverged" in text and "+8" in text
    found = json.loads((reported / "claims.json").read_text())
    gain = next(f for f in found if f["id"] == "gain")
    assert gain["verdict"] == "reproduced" and len(gain["cases"]) == 6
    for name in ("accuracy_over_epochs", "memory"):
        assert (reported / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (reported / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


def test_redrawing_from_rows_gives_the_same_files(reported):
    names = ("report.html", "REPORT.md", "claims.json", "figures/memory.svg")
    before = [(reported / name).read_bytes() for name in names]
    report.write(reported, "paper", "About <this> preset.", full=True)
    assert [(reported / name).read_bytes() for name in names] == before


def test_a_report_without_rows_says_what_is_missing(tmp_path):
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(ValueError, match="expected rows, got none"):
        report.write(tmp_path, "paper", "", full=True)


def test_a_failing_run_is_a_row_and_the_others_go_on(tmp_path):
    good = Run("lenet5", "digits", "full-zo", epochs=1, train_examples=64)
    bad = replace(good, model="pointnet")
    done = list(execute([bad, good], tmp_path))
    assert [part[-1].metric for part in done] == ["failed", "finished"]
    assert "expected data of points" in done[0][-1].note


def test_presets_hold_runs_that_exist_and_no_run_twice():
    for preset in presets.PRESETS.values():
        cases = [run.case for run in preset.runs()]
        assert cases and len(cases) == len(set(cases))
    full = presets.PRESETS["paper"]
    assert full.full and {run.seed for run in full.runs()} == {0, 1, 2}


def test_the_search_spends_the_same_number_of_trials_on_every_method():
    for method in presets.ACCURACY_METHODS:
        tried = search.candidates(method, 6)
        assert len(set(tried)) == 6
        for hyper in tried:
            for name, (low, high) in search.space(method).items():
                assert low * 0.9 <= getattr(hyper, name) <= high * 1.1


def test_the_search_s_second_round_stays_near_the_best_of_the_first_and_within_bounds():
    best = search.candidates("elastic-1", 6)[0]
    for hyper in search.candidates("elastic-1", 4, best):
        assert hyper != best and hyper.schedule == best.schedule
        for name, (low, high) in search.space("elastic-1").items():
            ratio = getattr(hyper, name) / getattr(best, name)
            assert (high / low) ** -0.125 * 0.95 <= ratio <= (high / low) ** 0.125 * 1.05
            assert low * 0.95 <= getattr(hyper, name) <= high * 1.05


def test_the_search_scores_a_run_that_did_not_finish_below_any_other():
    assert search.score(run_rows("full-zo", 0, 50.0)) == 50.0
    assert search.score(run_rows("full-zo", 0, 50.0, end="diverged")) == -1.0


def test_the_search_s_third_round_has_as_many_trials_whether_or_not_a_method_perturbs():
    for method in presets.ACCURACY_METHODS:
        best = search.candidates(method, 1)[0]
        tried = search.third_round(method, best)
        assert len({*tried, best}) == 1 + len(search.WIDER)


def test_the_search_does_not_train_a_known_trial_again(tmp_path, monkeypatch):
    def found(*known):
        out = tmp_path / f"known{len(known)}"
        words = ["search", "--data", "digits", "--methods", "full-zo", "tail-only-1", "--trials"]
        words += ["3", "--epochs", "0", "--held-out", "100", "--jobs", "1", "--out", str(out)]
        monkeypatch.setattr("sys.argv", [*words, *(["--known", *known] if known else [])])
        assert search.main() == 0
        return rows.read(out / "rows.jsonl"), out / "runs"

    first, trained = found()
    assert len({row.case for row in first}) == len(list(trained.iterdir())) == 2 * 6
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "known0" / "rows.jsonl").read_bytes()))
    again, trained = found(str(packed))
    assert not trained.exists()
    assert sorted(map(Row.json, again)) == sorted(map(Row.json, first))
