"""Reporting: figures, tables and the report, from rows alone."""

import gzip
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import asdict, fields, replace
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from made_rows import cell_rows, everything, run_rows

from ezo import catalogue, livebytes, rows
from ezo.methods import Hyper
from ezo.rows import Row
from ezo.train import Run
from ezo.tuned import tuned
from reproduce import coverage, glossary, judge, ledger, opening, report, rules, tables
from reproduce.commands import commands
from reproduce.experiments import Experiment
from reproduce.figures import memory_by_kind
from reproduce.figures._style import COLUMN_INCHES, ORDER
from reproduce.figures.accuracy_over_bytes import front
from reproduce.figures.memory_by_kind import KINDS
from reproduce.frame import frame, sensitivity
from reproduce.presets import PRESETS, Cells, Preset
from reproduce.small_tables import small_tables

PAPER = Preset("About <this> preset.", {}, full=True, data="mnist")


def test_every_figure_draws_from_rows_with_a_unit_on_each_axis_and_gives_none_without():
    table = frame(everything())
    for module in report.figures():
        assert module.TITLE and module.CAPTION
        drawn = module.draw(table)
        assert drawn is not None, module.__name__
        for ax in drawn.axes:
            numbers = [ax.get_xlabel(), ax.get_ylabel()]
            if any(
                text.get_text() in ORDER or ", " in text.get_text() for text in ax.get_yticklabels()
            ):
                del numbers[1]  # names
            for label in numbers:
                assert re.search(r"\(.+\)|^epochs$", label), (module.__name__, label)
        assert drawn.get_figwidth() <= 2 * COLUMN_INCHES
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
    report.write(out, "paper", PAPER)
    return out


@pytest.fixture
def undrawn(monkeypatch):
    """Reports without figures, which take the most time."""
    monkeypatch.setattr(report, "figures", lambda: iter(()))


@pytest.fixture
def small(tmp_path):
    """A report of one run and two measurements."""
    made = run_rows("full-zo", 0, 80.0)
    made += cell_rows("peak_tensor_bytes", {"inference": 1000, "full-zo": 1010})
    rows.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path, "paper", PAPER)
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
    for name in ("gain", "memory", "sensitivity"):
        assert (reported / "figures" / f"{name}.svg").stat().st_size > 1000
        assert (reported / "figures" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (reported / "figures" / f"{name}.pdf").read_bytes()[:4] == b"%PDF"
    assert len(html) < 3e6


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
        of_case = [row for a, b in line.ranges for row in made[a - 1 : b]]
        assert of_case == [row for row in made if row.case == line.case]
        assert line.case in links.targets | set(links.ids)


def test_rows_of_a_case_are_found_also_where_they_lie_apart():
    here, there = run_rows("full-zo", 0, 80.0), run_rows("full-zo", 1, 80.0)
    here = [replace(row, commit="a" * 40) for row in here]
    parted = [*here[:3], *there, *(replace(row, commit="b" * 40) for row in here[3:])]
    first, second = tables.run_lines(parted)
    assert (first.number, first.lines, first.end) == (1, "1 to 3, 15 to 22", "finished")
    assert first.commits == "aaaaaaaaaa, bbbbbbbbbb"
    assert (second.number, second.lines) == (2, "4 to 14")


def test_each_number_in_markdown_names_the_numbers_of_its_cases(reported):
    text = (reported / "REPORT.md").read_text()
    gain = next(f for f in json.loads((reported / "claims.json").read_text()) if f["id"] == "gain")
    line = next(x for x in text.splitlines() if x.startswith(f"| {gain['comparison']} |"))
    told = [part.split(" to ") for part in line.split("|")[-2].strip().split(", ")]
    numbers = {n for ends in told for n in range(int(ends[0]), int(ends[-1]) + 1)}
    named = {x.split(" | ")[1] for n in numbers for x in text.splitlines() if _starts(x, n)}
    assert named == set(gain["cases"])


def _starts(line, number):
    return re.match(rf"\| {number} \| lenet5", line)


class Shape(HTMLParser):
    """Checks that every element is closed where it may be, and what it lies in."""

    VOID = {"meta", "br", "img"}

    def __init__(self):
        super().__init__()
        self.open, self.wide = [], []

    def handle_starttag(self, tag, attributes):
        if tag in ("table", "img"):
            boxes = ("scroll", "few")  # the second holds figures as narrow as a phone
            self.wide.append(any(box in classes for _, classes in self.open for box in boxes))
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("class", "")))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag, self.getpos()


def test_the_html_is_well_formed_and_what_is_wide_scrolls_in_its_own_box(reported, small):
    for folder in (reported, small):
        shape = Shape()
        shape.feed((folder / "report.html").read_text())
        assert not shape.open and shape.wide and all(shape.wide)
        assert 'name="viewport"' in (folder / "report.html").read_text()


def test_the_tables_of_markdown_have_as_many_cells_in_every_line(reported):
    lines = (reported / "REPORT.md").read_text().splitlines()
    cells = [len(re.split(r"(?<!\\)\|", x.strip())) if x.startswith("|") else 0 for x in lines]
    assert max(cells) > 10
    for above, below in zip(cells, cells[1:], strict=False):
        assert not above or not below or above == below


def test_the_summary_leads_to_the_comparison_that_does_not_meet_the_claim(tmp_path, undrawn):
    made = []
    for seed in range(3):
        for method, accuracy in (("full-zo", 80.0), ("elastic-1", 81.0), ("elastic-2", 87.0)):
            made += run_rows(method, seed, accuracy + seed / 10)
    rows.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path, "paper", PAPER)
    text = (tmp_path / "REPORT.md").read_text()
    assert (
        "contradicted: 1 ([elastic-1 minus full-zo, lenet5 on mnist, fp32](#gain) +1 points "
        "[+1, +1]), reproduced: 1 (+7 points [+7, +7])" in text
    )
    html = (tmp_path / "report.html").read_text()
    name = r"elastic-1 minus full-zo, lenet5 on mnist, fp32"
    target = re.search(rf'<a href="#(finding-gain-\d)">{name}</a>', html)
    assert re.search(rf'<tr id="{target[1]}"><td[^>]*>{name}</td>', html)


def test_a_claim_without_rows_is_one_sentence_and_no_line_of_a_table(small):
    needs = next(m.CLAIM.needs for m in judge.claims() if m.CLAIM.id == "fine-tune-recovery")
    for name in ("REPORT.md", "report.html"):
        assert f"Not run: it needs {needs}." in (small / name).read_text()
    assert "| not run |" in (text := (small / "REPORT.md").read_text())
    assert (
        "| - | - |" not in text.partition("## Evidence")[2].partition("## Final test accuracy")[0]
    )
    assert "not run" not in (small / "tables" / "claims.tex").read_text()


def test_a_bound_reads_as_one_everywhere(tmp_path, undrawn):
    made = [row for seed in range(3) for row in run_rows("full-zo", seed, 40.0)]
    made += [row for seed in range(3) for row in run_rows("elastic-2", seed, 90.0)]
    rows.write(tmp_path / "rows.jsonl", made)
    report.write(tmp_path, "paper", PAPER)
    for name in ("REPORT.md", "report.html", "claims.json", "tables/claims.tex"):
        assert "at least 2 x [2 or more]" in (tmp_path / name).read_text(), name


def test_the_glossary_has_every_method_and_precision_of_a_report():
    words = " ".join(glossary.TERMS)
    for name in (*ORDER, *catalogue.names("precision")):
        assert re.sub(r"^(elastic|tail-only)((-[a-z]+)?)-\d$", r"\1\2-k", name) in words


def test_the_kinds_of_memory_that_are_drawn_are_all_there_are():
    assert set(KINDS) == {f"bytes_{kind}" for kind in livebytes.KINDS}


def test_redrawing_from_rows_gives_the_same_files_also_from_compressed_ones(small):
    names = ("report.html", "REPORT.md", "claims.json", "figures/memory.svg", "tables/claims.tex")
    before = [(small / name).read_bytes() for name in names]
    plain = small / "rows.jsonl"
    (small / "rows.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    plain.unlink()
    report.write(small, "paper", PAPER)
    assert [(small / name).read_bytes() for name in names] == before


def test_a_figure_that_has_no_rows_any_more_is_left_out_and_the_report_says_so(small):
    assert (small / "figures" / "memory.png").exists()
    rows.write(small / "rows.jsonl", run_rows("full-zo", 0, 80.0))
    report.write(small, "paper", PAPER)
    assert not list((small / "figures").glob("memory.*"))
    assert "left out: " in (text := (small / "REPORT.md").read_text())
    assert "Memory of a step over that of inference" in text


def test_the_report_names_what_was_asked_for_and_not_run():
    made = run_rows("full-zo", 0, 80.0)
    done, other = (Run("lenet5", "mnist", "full-zo", seed=seed) for seed in (0, 1))
    tuned = replace(done, data="mnist-rot30")
    experiments = {
        "mnist": Experiment("training", lambda: [done, other]),
        "turned": Experiment("fine-tuning", lambda: [tuned]),
    }
    mnist, turned = coverage.parts(made, experiments)
    assert str(mnist) == "mnist (1 of 2 runs finished)"
    assert mnist.missing == ["lenet5 on mnist (fp32): full-zo with seed 1"]
    assert turned.missing == ["lenet5 on mnist-rot30 (fp32): full-zo with seed 0"]
    assert coverage.beyond(made, experiments) == []
    assert coverage.beyond(made + run_rows("full-bp", 0, 98.0), experiments) == [
        run_rows("full-bp", 0, 98.0)[0].case
    ]


def test_what_has_no_rows_is_named_once_and_not_once_a_run():
    hyper = [Hyper(eps=eps) for eps in (0.1, 0.2, 0.3)]
    runs = [Run("lenet5", "mnist", "full-zo", hyper=h) for h in hyper]
    runs += [Run("lenet5", "mnist", "elastic-2", precision) for precision in ("fp32", "int8")]
    tried = {"sensitivity": Experiment("sensitivity", lambda: runs)}
    ended = [Row(runs[1].case, "diverged", None, "", "lenet5", "mnist", "full-zo", seed=0)]
    (part,) = coverage.parts(
        [replace(row, config={"experiment": "sensitivity"}) for row in ended], tried
    )
    assert str(part) == "sensitivity (0 of 5 runs finished, 1 diverged, failed or stopped)"
    assert part.missing == [
        "lenet5 on mnist (fp32): full-zo with seed 0 (2 runs); elastic-2 with seed 0",
        "lenet5 on mnist (int8): elastic-2 with seed 0",
    ]


def test_coverage_says_which_methods_of_a_measurement_have_no_rows():
    made = cell_rows("peak_tensor_bytes", {"full-zo": 1, "full-bp": None})
    made += cell_rows("float_operations", {"full-zo": 0}, precision="int8")
    cells = [
        Cells("memory", "lenet5", ("full-zo", "full-bp"), integers=True),
        Cells("float_operations", "lenet5", ("full-zo", "full-bp")),
        Cells("time", "lenet5", ("full-zo",)),
    ]
    memory, operations, time = coverage.measured(made, cells)
    assert str(memory) == "peak memory, lenet5 (1 case)"
    assert memory.missing == ["fp32: full-bp", "int8: full-zo, full-bp"]
    assert (operations.cases, operations.missing) == (1, ["int8: full-bp"])
    assert (time.cases, time.missing) == (0, ["fp32: full-zo"])
    (streamed,) = coverage.measured(made, [Cells("memory", "lenet5", ("full-zo",), chunk=8)])
    assert str(streamed) == "peak memory, 8 examples at a time, lenet5 (0 cases)"
    assert streamed.missing == ["fp32: full-zo"]


def test_coverage_knows_every_benchmark_of_the_presets():
    used = {cell.benchmark for preset in PRESETS.values() for cell in preset.cells}
    assert used <= set(coverage.BENCHMARKS)


def test_the_report_says_what_its_rows_cover(tmp_path, undrawn):
    rows.write(tmp_path / "rows.jsonl", run_rows("full-zo", 0, 80.0))
    run = Run("lenet5", "mnist", "full-zo")
    experiments = {
        "mnist": Experiment("training", lambda: [run, replace(run, seed=1)]),
        "clothes": Experiment("training", lambda: [replace(run, data="fashion-mnist")]),
    }
    report.write(tmp_path, "paper", Preset("About.", experiments, full=True))
    for name in ("REPORT.md", "report.html"):
        told = re.sub(r"<[^>]+>|\*\*", "", (tmp_path / name).read_text())
        assert "What the rows cover. Experiments: mnist (1 of 2 runs finished)." in told
        assert "Experiments: mnist (1 of 2 runs), clothes (1 of 1 runs)." in told


def test_an_estimate_has_its_interval_or_says_why_it_has_none():
    claim = replace(next(judge.claims()).CLAIM, unit="points")
    exact = judge.finding(claim, "", [1.0], True, (), exact=True)
    one, many = (judge.finding(claim, "", samples, True, ()) for samples in ([1.0], [1.0, 1.0]))
    assert tables.estimate(claim, exact) == "+1 points (exact)"
    assert tables.estimate(claim, one) == "+1 points (one sample, no interval)"
    assert tables.estimate(claim, many) == "+1 points [+1, +1]"
    assert tables.estimate(replace(claim, unit="x"), many) == "1 x [1, 1]"
    none = judge.finding(claim, "", [0.0], True, (), exact=True)
    assert tables.estimate(claim, none) == "0 points (exact)"
    assert tables.estimate(claim, judge.finding(claim, "", [], True, ())) == "-"


def test_latex_tables_hold_every_finding_and_escape_what_latex_reads(reported):
    text = (reported / "tables" / "claims.tex").read_text()
    assert r"\toprule" in text and r"int8-accuracy" in text
    assert not re.search(r"(?<!\\)%", text)
    accuracy = (reported / "tables" / "accuracy.tex").read_text()
    assert accuracy.count("mnist-rot30") == 5
    keys = [line.split(" & ")[:5] for line in accuracy.splitlines() if "lenet5" in line]
    assert len(keys) == len({tuple(key) for key in keys}) > 10


def test_the_ledger_names_every_hyperparameter_with_its_effect_where_it_was_tried(reported):
    entries = list(ledger.entries(frame(rows.read(reported / "rows.jsonl"))))
    eps = next(entry for entry in entries if "(eps)" in entry.what)
    assert "full-zo" in eps.effect and "71.0 to 74.0 %" in eps.effect and len(eps.cases) == 2
    assert {e.what for e in entries} > {what for what, *_ in ledger.FIXED}


def test_the_ledger_says_which_fine_tuning_began_at_other_weights():
    def told(of_zo):
        made = run_rows("full-zo", 0, 80.0, data="mnist-rot30", start="a", checksum=of_zo)
        made += run_rows("full-bp", 0, 90.0, data="mnist-rot30", start="a")
        made += run_rows("full-bp", 0, 90.0)
        return next(e.choice for e in ledger.entries(frame(made)) if e.what == "fine-tuning")

    assert told("ab" * 32).endswith("every method from the same weights")
    assert "but for 1 runs of full-zo on mnist-rot30, which another" in told("cd" * 32)


def test_the_committed_numbers_that_are_told_in_words_are_those_of_the_rows():
    root = Path(__file__).resolve().parents[1] / "reports"
    told = (root / "search/README.md").read_text()
    found = json.loads((root / "paper/claims.json").read_text())
    (recovery,) = (
        f
        for f in found
        if f["id"] == "fine-tune-recovery"
        and f["comparison"] == "elastic-1 over full-bp, lenet5 on mnist-rot30, fp32"
    )
    text = f"{recovery['value']:.2f} % [{recovery['low']:.2f}, {recovery['high']:.2f}]"
    assert f"it is {text} on the test set" in told


def test_what_readme_says_that_zo_adds_is_what_the_report_found():
    root = Path(__file__).resolve().parents[1]
    found = json.loads((root / "reports/paper/claims.json").read_text())
    by = {f["comparison"]: f for f in found if f["id"] in ("ablation", "int8-accuracy")}
    told = (root / "README.md").read_text()
    for k in (1, 2):
        for data in ("mnist", "fashion-mnist"):
            f = by[f"elastic-{k} minus tail-only-{k}, lenet5 on {data}, fp32"]
            assert f"[{f['low']:.2f}, {f['high']:.2f}]" in told and f["verdict"] == "reproduced"
            assert re.search(rf"\b{f['value']:.2f} (points )?\[{f['low']:.2f}, ", told)
    lost = [
        by[f"elastic-2, lenet5 on {data}, int8 minus fp32, the paper's form"]["value"]
        for data in ("mnist", "fashion-mnist")
    ]
    assert f"{-lost[0]:.2f} and {-lost[1]:.2f} points less than fp32" in " ".join(told.split())


def test_the_caption_of_memory_by_kind_holds_of_integers_too():
    apart = {
        r.metric for r in _paper() if r.precision == "int8" and r.value and r.method == "full-bp"
    }
    assert {"bytes_activations", "bytes_gradients", "bytes_temporaries"} <= apart
    assert "int8" not in memory_by_kind.CAPTION


def test_what_was_asked_for_in_hours_is_what_the_rows_took():
    seconds = {row.case: row.value for row in _paper() if row.metric == "train_seconds"}
    named = int(re.search(r"About (\d+) hours", PRESETS["paper"].about)[1])
    assert 0.7 * named < sum(seconds.values()) / 3600 < named  # not all of it has run


def _paper():
    return rows.read(Path(__file__).resolve().parents[1] / "reports/paper/rows.jsonl.gz")


def test_the_report_opens_with_one_line_for_each_sentence_of_the_abstract(reported):
    text = (reported / "REPORT.md").read_text()
    result = text.partition("## Result")[2].partition("###")[0]
    lines = [x for x in result.splitlines() if x.startswith("| ")][1:]
    assert len(lines) == len(rules.PRIMARY)
    gain = next(line for line in lines if "elastic-2 minus full-zo" in line)
    assert "| +5.2 to +9.5 points | +17 points [+17, +17] | not run | exceeded |" in gain
    streamed = next(line for line in lines if "both streamed" in line)
    assert streamed.endswith("| no rows yet |  | not run |")
    html = (reported / "report.html").read_text()
    assert html.index('id="result"') < html.index('id="figures"') < html.index('id="evidence"')
    depth, unfolded = 0, ""
    for part in re.split(r"(</?details|<table|<img)", html[html.index('id="evidence"') :]):
        depth += {"<details": 1, "</details": -1}.get(part, 0)
        unfolded += part if depth == 0 else ""
    assert "<table" not in unfolded and "<img" not in unfolded


def test_the_report_names_its_rules_commit_and_how_many_would_be_false(reported, tmp_path):
    text = (reported / "REPORT.md").read_text()
    told = re.search(
        r"first written in commit (.+?), and last changed in (.+?), the margins in (.+?)\.\n", text
    )
    assert told.groups() == tuple(opening.stamp())
    assert set(opening.stamp(tmp_path)) == {"unknown (no repository here)"}
    (number,) = re.findall(r"chance alone\s+would put about (\d+\.\d) of these", text)
    (sampled,) = re.findall(r"exploratory; (\d+) of them", text)
    assert float(number) == pytest.approx(0.025 * int(sampled), abs=0.051)


def test_accuracy_s_table_has_each_control_below_what_it_controls():
    accuracy = small_tables(everything())[0]
    methods = [line[1] for line in accuracy.lines if line[0].startswith("MNIST (")]
    papers = [method for method in methods if "node" not in method]
    assert papers == ["full-zo", "elastic-1", "tail-only-1", "elastic-2", "full-bp"]
    first = accuracy.lines[1]
    assert first[2].startswith("80.10 ± 0.25") and first[4:] == ["3", "0"]


def test_costs_have_bytes_over_inference_in_the_same_precision():
    costs = small_tables(everything())[1]
    line = next(line for line in costs.lines if line[1:3] == ["INT8", "full-zo"])
    assert line[3:] == ["0.0005050 (1.010x)", "-", "1366.67"]


def test_the_command_beside_a_case_makes_the_same_case():
    """Parsed as the command line parses it, with every value that was chosen."""
    chosen = tuned("lenet5", "digits", "elastic-2")
    run = Run("lenet5", "digits", "elastic-2", seed=3, epochs=7, hyper=replace(chosen, lr=0.5))
    integers = Run("lenet5", "fashion-mnist", "full-zo", "int8*", epochs=2)
    for each in (run, integers, replace(run, start="lenet5-digits-full-bp-fp32-seed3-0")):
        settled = each.settled()
        row = Row(settled.case, "finished", 1, "step", each.model, each.data, each.method)
        row = replace(row, precision=each.precision, seed=each.seed, config=settled.config)
        (command,) = commands([row]).values()
        words = shlex.split(command)
        assert words[:2] == ["ezo", "train"] and words[-1] == f"runs/{settled.case}"
        given = {k.removeprefix("--").replace("-", "_"): v for k, v in batched(words[2:])}
        own = {f.name: type(f.default) for f in fields(Run) if f.name in given}
        again = Run(**{k: t(given[k]) if t in (int, str) else given[k] for k, t in own.items()})
        names = [f.name for f in fields(settled.run.hyper) if f.name in given]
        kinds = asdict(settled.run.hyper)
        changes = {name: type(kinds[name])(given[name]) for name in names}
        assert again.settled(changes).case == settled.case


def batched(words):
    return zip(words[::2], words[1::2], strict=True)


def test_a_measurement_s_command_names_its_cell():
    (row,) = cell_rows("peak_tensor_bytes", {"full-zo": 1}, precision="int8", benchmark="memory")
    assert commands([row])[row.case] == (
        "python -m bench run memory --models lenet5 --methods full-zo "
        f"--precision 'int8' --out measured/{row.case}"
    )


def test_a_notebook_s_backend_does_not_stop_a_report(small):
    (small / "preset.json").write_text('{"preset": "smoke"}')
    words = [sys.executable, "-m", "reproduce", "--redraw", small]
    told = subprocess.run(
        words, env={**os.environ, "MPLBACKEND": "no-such-one"}, capture_output=True, text=True
    )
    assert told.returncode == 0, told.stderr
    assert "+1 % (exact)" in told.stdout


def test_what_would_fail_late_fails_before_training(tmp_path, monkeypatch):
    report.check(tmp_path)
    assert not list((tmp_path / "figures").iterdir())
    monkeypatch.setattr(report, "TEMPLATES", ("no-such-template",))
    with pytest.raises(jinja2.TemplateNotFound):
        report.check(tmp_path)


def test_a_report_without_rows_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"expected rows.jsonl or rows.jsonl.gz"):
        report.write(tmp_path, "paper", PAPER)
    (tmp_path / "rows.jsonl").touch()
    with pytest.raises(ValueError, match="expected rows, got none"):
        report.write(tmp_path, "paper", PAPER)


def test_measurements_alone_make_a_report(tmp_path):
    rows.write(tmp_path / "rows.jsonl", cell_rows("peak_tensor_bytes", {"full-zo": 1010}))
    found = report.write(tmp_path, "paper", PAPER)
    assert {f.verdict for f in found} == {"not run"}
