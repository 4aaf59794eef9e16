"""The script of all GPU rows, and the example of a language model, once each, tiny, on the CPU."""

import pytest

from bench import gpu
from ezo.lock import alone_in

pytest.importorskip("transformers", reason="transformers is not installed")

from examples import language  # noqa: E402


def test_every_part_makes_its_rows_or_says_why_not(tmp_path, capsys):
    rows = gpu.main(["--device", "cpu", "--small", "--out", str(tmp_path)])
    found = {(row.case, row.metric): row for row in rows}
    for part in gpu.PARTS:
        assert found[part, "part_seconds"].value is not None, found[part, "part_seconds"].note
    assert all(row.value == 0 for row in rows if row.metric == "different_numbers")
    assert found["int8-lenet5", "digests_equal"].value == 1
    assert found["opt-1.3b-batch8x16-full-zo-gaussian", "step_over_two_forwards"].value > 0
    captured = found["opt-1.3b-batch8x16-full-zo-gaussian-captured", "step_over_two_forwards"]
    assert captured.value is None and "expected weights on cuda" in captured.note
    assert "ModuleNotFoundError" in found["opt-13b-batch8x16-zo2", "step_over_two_forwards"].note
    assert (tmp_path / "rows.jsonl").read_text().count("\n") == len(rows)


def test_without_time_left_every_part_is_a_row(capsys):
    rows = gpu.main(["--device", "cpu", "--small", "--seconds", "0"])
    assert [row.note for row in rows] == ["not run: out of time"] * len(gpu.PARTS)


def test_two_at_once_in_a_folder_are_refused_and_rows_are_added(tmp_path, capsys):
    words = ["--device", "cpu", "--small", "--seconds", "0", "--out", str(tmp_path)]
    with alone_in(tmp_path), pytest.raises(ValueError, match="another process works here"):
        gpu.main(words)
    rows = gpu.main(words) + gpu.main(words)
    assert (tmp_path / "rows.jsonl").read_text().count("\n") == len(rows) == 2 * len(gpu.PARTS)


def test_the_example_fine_tunes_in_every_way(capsys):
    found = language.main(["--steps", "3", "--pretrain-steps", "2", "--batch-size", "4"])
    assert [row["way"] for row in found] == list(language.WAYS)
    assert all(row["bytes"] > 0 and 0 <= row["accuracy"] <= 100 for row in found)
    assert found[0]["bytes"] < found[-1]["bytes"]  # full ZO, and BP


def test_the_example_s_task_shifts_by_a_quarter_of_its_words():
    assert (language.meanings(True) != language.meanings(False)).sum() == language.WORDS // 4
    x, y = language.sentences(64, 0, True, "cpu")
    again, _ = language.sentences(64, 0, False, "cpu")
    assert x.shape == (64, language.LENGTH + 1) and (x == again).all() and set(y.tolist()) == {0, 1}


def test_the_example_measures_a_shape(capsys):
    found = language.main(["--measure", "--dtype", "bfloat16"])
    assert [row["way"] for row in found] == ["forward", "step"]
    assert found[1]["bytes"] <= 1.05 * found[0]["bytes"]


def test_where_there_is_no_card_it_says_how_to_try_it(capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(["--device", "cuda:99"])
    assert "give --device cpu --small to see" in capsys.readouterr().err
