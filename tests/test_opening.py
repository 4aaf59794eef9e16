"""What the report opens with: times that can be compared, and a count of verdicts."""

from dataclasses import replace

from made_rows import cell_rows, everything, run_rows

from reproduce import judge, opening, tables


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
        head, *lines = opening.costs_table(rows)
        found = {(line[0], line[2]): line[-1] for line in lines}
        assert head[-1] == "step (ms)"
        assert [found[k] for k in sorted(found)] == ["7.00", "-", "5.00", "-"]
        assert "of new" in opening.small_tables(rows)[-1].about
    assert opening._processor([*newer, *older]) == "old"  # three steps against two


def test_the_scorecard_counts_its_verdicts_and_shows_the_control() -> None:
    made = [*everything(), *(r for n in range(3) for r in run_rows("tail-only-2", n, 95.0 + n))]
    findings = judge.judge(made, True)
    judged = tables.judged((module.CLAIM for module in judge.claims()), findings)
    scores = opening.scorecard(judged, "mnist")
    told = opening.tally(scores)
    counts = [part.split(" ", 1) for part in told.split(", ")]
    assert sum(int(n) for n, _ in counts) == len(scores)
    assert {verdict for _, verdict in counts} == {score.verdict for score in scores}
    (gain,) = (score for score in scores if score.claim.id == "gain")
    assert gain.beside[0].finding.claim == "ablation"
    assert gain.beside[0].finding.comparison.startswith("elastic-2 minus tail-only-2")
