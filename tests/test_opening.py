"""What the report opens with: times that can be compared, verdicts, and the frozen control."""

from dataclasses import replace

from made_rows import cell_rows, everything, run_rows

from ezo.rows import Row
from reproduce import judge, opening, small_tables, tables
from reproduce.tables import Judged


def test_a_column_of_times_is_of_one_processor_and_of_what_was_timed() -> None:
    peaks = cell_rows("peak_tensor_bytes", {"full-zo": 10, "elastic-1": 11, "full-bp": 12})
    streamed = [
        replace(row, case=f"{row.case}-chunk8")
        for row in cell_rows("peak_tensor_bytes", {"full-zo": 5}, chunk=8)
    ]
    times = cell_rows("turn_seconds", {"full-zo": [0.004, 0.006, 0.005], "elastic-1": 0.007})
    newer = [replace(row, processor="new") for row in times]
    older = [
        replace(row, processor="old")
        for row in cell_rows("step_seconds", {"full-bp": 0.001, "full-zo": 0.1, "elastic-1": 0.2})
    ]
    other = [
        replace(row, processor="new")
        for row in cell_rows("turn_seconds", {"full-bp": 0.003}, layout="channels_last")
    ]
    for few in ([], older[:1]):
        rows = [*peaks, *streamed, *newer, *few, *other]
        head, *lines = small_tables.costs_table(rows)
        assert head[-1] == "step (ms)"
        assert {line[2]: line[-1] for line in lines} == {
            "full-zo": "5.00", "elastic-1": "7.00", "full-bp": "-",
        }  # fmt: skip
        whole, streamed_ones = small_tables.small_tables(rows)
        assert ", on new." in whole.about and not whole.folded and streamed_ones.folded
        ((above, (line,)),) = streamed_ones.parts()
        assert "chunk 8" in above and line == ["full-zo", "5.000e-06", "-", "-"]
    assert small_tables._processor([*newer, *older]) == "old"  # three steps against two


def test_the_fastest_way_stands_beside_the_usual_one_and_elastic_2_beside_bp() -> None:
    peaks = cell_rows("peak_tensor_bytes", {"elastic-2": 10_000_000, "full-bp": 20_000_000})
    usual = cell_rows("turn_seconds", {"elastic-2": 0.006, "full-bp": 0.005})
    other = cell_rows("turn_seconds", {"elastic-2": 0.004, "full-bp": 0.006}, layout="pooled")
    (table,) = small_tables.small_tables([*peaks, *usual, *other])
    ((_, lines),) = table.parts()
    assert [line[-1] for line in lines] == ["6.00 (4.00, pooled)", "5.00"]
    assert [line[1] for line in lines] == ["10.00", "20.00"]
    assert "a step of elastic-2 takes 0.80 times that of full-bp" in table.about


def test_the_trade_off_is_told_from_runs_and_measurements_of_the_same_model() -> None:
    made = cell_rows("peak_tensor_bytes", {"elastic-2": 10_000_000, "full-bp": 20_000_000})
    made += cell_rows("turn_seconds", {"elastic-2": 0.006, "full-bp": 0.005})
    assert small_tables.trade_off(made, "mnist") == ""  # nothing was trained
    for seed in range(2):
        made += run_rows("elastic-2", seed, 97.0 + seed) + run_rows("full-bp", seed, 99.0)
    assert small_tables.trade_off(made, "mnist") == (
        "elastic-2 in FP32 has beside full-bp -1.50 points of accuracy, 0.500 times the bytes and "
        "1.20 times the time of a step."
    )
    assert small_tables.trade_off(made, "fashion-mnist") == ""


def test_the_table_of_settings_has_what_a_method_reads() -> None:
    made = [*run_rows("full-bp", 0, 99.0), *run_rows("of-a-stranger", 0, 99.0)]
    known, stranger = (config for *_, config in tables.hypers(made))
    assert (known["lr"], known["bp_lr"], known["epochs"]) == ("-", 0.01, 2)
    assert (stranger["lr"], stranger["bp_lr"]) == (1e-3, 0.01)


def judged_of(made: list[Row]) -> list[Judged]:
    findings = judge.judge(made, True)
    return tables.judged((module.CLAIM for module in judge.claims()), findings)


def test_the_scorecard_counts_its_verdicts_and_shows_the_control() -> None:
    made = [*everything(), *(r for n in range(3) for r in run_rows("tail-only-2", n, 95.0 + n))]
    scores = opening.scorecard(judged_of(made), "mnist", made)
    told = opening.tally(scores)
    counts = [part.split(" ", 1) for part in told.split(", ")]
    assert sum(int(n) for n, _ in counts) == len(scores)
    assert {verdict for _, verdict in counts} == {score.verdict for score in scores}
    (gain,) = (score for score in scores if score.claim.id == "gain")
    assert gain.beside[0].finding.claim == "ablation"
    assert gain.beside[0].finding.comparison.startswith("elastic-2 minus tail-only-2")


def test_what_the_control_reaches_alone_is_told_apart_from_the_zo_steps_part() -> None:
    of = {"full-zo": 80.0, "tail-only-2": 86.0, "elastic-2": 88.0, "full-bp": 90.0}
    made = [r for n in range(3) for m, end in of.items() for r in run_rows(m, n, end + n)]
    scores = {s.claim.id: s for s in opening.scorecard(judged_of(made), "mnist", made)}
    assert scores["gain"].frozen == "+6 points [+6, +6]"
    assert scores["gap"].frozen == "+60 % [+60, +60]"
    assert scores["int8-accuracy"].frozen == scores["int8-only"].frozen == ""
    told = opening.own_part(list(scores.values()))
    assert "+8 points [+8, +8], the frozen control" in told
    assert "has +6 points [+6, +6] by itself" in told
    assert "the ZO steps add +2 points [+2, +2], " in told
    without = [row for row in made if row.method != "tail-only-2"]
    scores = {s.claim.id: s for s in opening.scorecard(judged_of(without), "mnist", without)}
    assert scores["gain"].frozen == "not run" and opening.own_part(list(scores.values())) == ""
