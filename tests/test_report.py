"""Reporting: figures, tables and the report, from rows alone."""

import gzip
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from made_rows import cell_rows, everything, run_rows

from ezo import rows
from ezo.train import Run
from reproduce import judge, ledger, report, tables
from reproduce.figures.accuracy_over_memory import front
from reproduce.frame import frame, sensitivity


def test_every_figure_draws_from_rows_with_a_unit_on_each_axis_and_gives_none_without():
    table = frame(everything())
    for module in report.figures():
        assert module.TITLE and module.CAPTION
        drawn = module.draw(table)
        assert drawn is not None, module.__name__
        for ax in drawn.axes:
            for label in (ax.get_xlabel(), ax.get_ylabel()):
                assert label == "method" or re.search(r"\(.+\)", label), (module.__name__, label)
        assert module.draw(table[:0]) is None


def test_figures_leave_out_runs_that_did_not_finish():
    made = run_rows("full-zo", 0, 80.0, end="diverged")
    for module in report.figures():
        assert module.draw(frame(made)) is None, module.__name__


def test_the_pareto_front_holds_what_nothing_beats_in_both():
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 70.0), (1.0, 79.0), (4.0, 90.0)]
    assert front(points) == [(1.0, 80.0), (3.0, 90.0)]


def test_sensitivity_takes_one_hyperparameter_at_a_time():
    made = []
    for settings in ({}, {"eps": 1.0}, {"eps": 2.0}, {"lr": 3.0}, {"clip": None}):
        made += run_rows("full-zo", 0, 80.0, experiment="sensitivity", **settings)
    found = {name: lines for _, name, lines in sensitivity(frame(made))}
    assert {n: set(x.setting) for n, x in found.items()} == {
        "eps": {"0.001", "1.0", "2.0"},
        "lr": {"0.001", "3.0"},
        "clip": {"5.0", "nan"},
    }
    assert all(list(x.setting[x.centre]) == [str(made[0].config[n])] for n, x in found.items())


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A report of everything; to be read only."""
    out = tmp_path_factory.mktemp("reported")
    made = everything()
    made += run_rows("full-bp", 5, float("nan"), end="diverged")
    rows.write(out / "rows.jsonl", made)
    report.write(out, "paper", "About <this> preset.", full=True)
    return out


@pytest.fixture
def small(tmp_path):
    """A report of one run and two measurements."""
    made = run_rows("full-zo", 0, 80.0)
    made += cell_rows("peak_tensor_bytes", {"inference": 1000, "full-zo": 1010})
    rows.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path, "paper", "About.", full=True)
    return tmp_path


def test_the_report_is_self_contained_and_shows_verdicts_and_failures(reported):
    html = (reported / "report.html").read_text()
    assert not re.search(r'(src|href)="(?!data:|#|https://arxiv\.org)', html)
    assert "&lt;this&gt;" in html
    for text in (html, (reported / "REPORT.md").read_text()):
        assert "reproduced" in text and "diverged" in text and "+8" in text
    found = json.loads((reported / "claims.json").read_text())
    gain = next(f for f in found if f["id"] == "gain" and "elastic-1" in f["comparison"])
    assert gain["verdict"] == "reproduced" and len(gain["cases"]) == 6
    assert gain["printed_low"] == 5.2 and gain["low"] > 0
    for name in ("accuracy_over_epochs", "memory", "sensitivity"):
        assert (reported / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (reported / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"


class Links(HTMLParser):
    """Collects what is linked to and what can be."""

    def __init__(self):
        super().__init__()
        self.targets, self.ids = set(), []

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("href", "").startswith("#"):
            self.targets.add(found["href"][1:])
        if "id" in found:
            self.ids.append(found["id"])


def test_every_number_s_link_leads_to_its_rows(reported):
    links = Links()
    links.feed((reported / "report.html").read_text())
    assert links.targets <= set(links.ids) and len(links.ids) == len(set(links.ids))
    made = rows.read(reported / "rows.jsonl")
    for line in tables.run_lines(made):
        assert {row.case for row in made[line.first - 1 : line.last]} == {line.case}
        assert line.case in links.targets | set(links.ids)


def test_redrawing_from_rows_gives_the_same_files_also_from_compressed_ones(small):
    names = ("report.html", "REPORT.md", "claims.json", "figures/memory.svg", "tables/claims.tex")
    before = [(small / name).read_bytes() for name in names]
    plain = small / "rows.jsonl"
    (small / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    report.write(small, "paper", "About.", full=True)
    assert [(small / name).read_bytes() for name in names] == before


def test_a_figure_that_has_no_rows_any_more_is_left_out_and_the_report_says_so(small):
    assert (small / "figures" / "memory.png").exists()
    rows.write(small / "rows.jsonl", run_rows("full-zo", 0, 80.0))
    report.write(small, "paper", "", full=True)
    assert not list((small / "figures").glob("memory.*"))
    assert "left out: " in (text := (small / "REPORT.md").read_text())
    assert "Peak memory of a training step;" in text


def test_the_report_names_what_was_asked_for_and_not_run():
    made = run_rows("full-zo", 0, 80.0)
    done, other = (Run("lenet5", "mnist", "full-zo", seed=seed) for seed in (0, 1))
    tuned = replace(done, data="mnist-rot30")
    found = tables.not_run(made, {"training": [done, other], "fine-tuning": [tuned]})
    assert found == [
        "training, lenet5 on mnist, fp32: full-zo seed 1",
        "fine-tuning, lenet5 on mnist-rot30, fp32: full-zo seed 0",
    ]


def test_an_estimate_has_its_interval_or_says_why_it_has_none():
    claim = replace(next(judge.claims()).CLAIM, unit="points")
    exact = judge.finding(claim, "", [1.0], True, (), exact=True)
    one, many = (judge.finding(claim, "", samples, True, ()) for samples in ([1.0], [1.0, 1.0]))
    assert tables.estimate(claim, exact) == "+1 (exact)"
    assert tables.estimate(claim, one) == "+1 (one sample, no interval)"
    assert tables.estimate(claim, many) == "+1 [+1, +1]"
    assert tables.estimate(replace(claim, unit="x"), many) == "1 [1, 1]"
    assert tables.estimate(claim, judge.finding(claim, "", [], True, ())) == "-"


def test_latex_tables_hold_every_finding_and_escape_what_latex_reads(reported):
    text = (reported / "tables" / "claims.tex").read_text()
    assert r"\toprule" in text and r"int8-accuracy" in text
    assert not re.search(r"(?<!\\)%", text)
    accuracy = (reported / "tables" / "accuracy.tex").read_text()
    assert accuracy.count("mnist-rot30") == 5


def test_the_ledger_names_every_hyperparameter_with_its_effect_where_it_was_tried(reported):
    entries = list(ledger.entries(frame(rows.read(reported / "rows.jsonl"))))
    eps = next(entry for entry in entries if "(eps)" in entry.what)
    assert "full-zo" in eps.effect and "71.0 to 74.0 %" in eps.effect and len(eps.cases) == 2
    assert {e.what for e in entries} > {what for what, *_ in ledger.FIXED}


def test_a_report_without_rows_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"expected rows.jsonl or rows.jsonl.gz"):
        report.write(tmp_path, "paper", "", full=True)
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(ValueError, match="expected rows, got none"):
        report.write(tmp_path, "paper", "", full=True)


def test_measurements_alone_make_a_report(tmp_path):
    rows.write(tmp_path / "rows.jsonl", cell_rows("peak_tensor_bytes", {"full-zo": 1010}))
    found = report.write(tmp_path, "paper", "", full=True)
    assert {f.verdict for f in found} == {"not run"}
