"""Searching hyperparameters: an equal budget for every method, and no trial twice."""

import gzip
import json
from dataclasses import replace

import torch
from made_rows import run_rows

from ezo import catalogue, rows
from ezo.rows import Row
from reproduce import search
from reproduce.experiments._runs import METHODS


def test_the_search_spends_the_same_number_of_trials_on_every_method():
    for method in METHODS:
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
    for method in METHODS:
        best = search.candidates(method, 1)[0]
        tried = search.third_round(method, best)
        assert len({*tried, best}) == 1 + len(search.WIDER)


def test_the_search_for_fine_tuning_starts_every_trial_from_the_same_trained_weights(
    tmp_path, monkeypatch
):
    tuned = tmp_path / "tuned.json"
    monkeypatch.setattr(search, "TUNED", tuned)
    words = ["search", "--data", "digits", "--start", "digits", "--start-epochs", "1", "--write"]
    words += ["--methods", "full-zo", "--trials", "3", "--epochs", "0", "--held-out", "100"]
    monkeypatch.setattr("sys.argv", [*words, "--jobs", "1", "--out", str(tmp_path)])
    assert search.main() == 0
    found = rows.read(tmp_path / "rows.jsonl")
    (start,) = {row.case for row in found if row.method == "full-bp"}
    trials = [row for row in found if row.method == "full-zo"]
    assert {row.config["start"] for row in trials} == {start}
    end = [r.value for r in found if r.case == start and r.metric == "test_accuracy"][-1]
    assert {r.value for r in trials if r.metric == "test_accuracy"} == {end}
    assert list(json.loads(tuned.read_text())) == ["lenet5/digits to digits/full-zo"]


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


def test_a_search_keeps_the_rows_of_an_earlier_one_in_the_same_folder(tmp_path, monkeypatch):
    words = ["search", "--data", "digits", "--trials", "3", "--epochs", "0", "--held-out", "100"]
    for method in ("full-zo", "tail-only-1", "full-zo"):
        given = [*words, "--methods", method, "--jobs", "1", "--out", str(tmp_path)]
        monkeypatch.setattr("sys.argv", given)
        assert search.main() == 0
    found = [row for row in rows.read(tmp_path / "rows.jsonl") if row.metric == "finished"]
    assert [row.method for row in found].count("full-zo") == 6
    assert [row.method for row in found].count("tail-only-1") == 6


def test_a_search_says_which_of_its_trials_other_code_made(tmp_path, monkeypatch, capsys):
    words = ["search", "--data", "digits", "--trials", "3", "--epochs", "0", "--held-out", "100"]
    given = [*words, "--methods", "full-zo", "--jobs", "1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", given)
    monkeypatch.setattr(rows, "_commit", lambda: ("a" * 40, False))
    assert search.main() == 0
    assert "other code" not in capsys.readouterr().err
    monkeypatch.setattr(rows, "_commit", lambda: ("b" * 40, False))
    kept = [replace(row, commit="c" * 40) for row in rows.read(tmp_path / "rows.jsonl")]
    rows.write(tmp_path / "rows.jsonl", kept)
    assert search.main() == 0
    assert "some are of cccccccccc, other code than this" in capsys.readouterr().err


def test_turned_digits_are_the_digits_turned_and_scaled_as_before():
    plain, whole, turned = (
        catalogue.find("data", name).load(name)
        for name in ("digits", "digits-rot360", "digits-rot30")
    )
    assert (whole.train_x - plain.train_x).abs().max() < 1e-5
    assert torch.equal(turned.train_y, plain.train_y)
    assert turned.train_x.min() == plain.train_x.min()  # black corners
    inner = turned.train_x[:, :, 13:15, 13:15].mean() - plain.train_x[:, :, 13:15, 13:15].mean()
    assert abs(inner) < 0.05 < (turned.train_x - plain.train_x).abs().mean()
