"""Rows over commits: order, gaps, and cells that are gone."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import __main__ as program
from bench import history
from ezo import rows
from ezo.rows import Row


def row(case: str, commit: str, value: float | None, **more: object) -> Row:
    return Row(case, "peak_tensor_bytes", value, "B", commit=commit, processor="p", **more)


MEASURED = [
    row("a", "c3", 110.0),
    row("a", "c1", 100.0),
    row("b", "c1", 7.0),
    row("b", "c2", 7.0),
    row("a", "away", 90.0),
    row("c", "c2", 1.0),
    row("c", "c3", None),
]
ORDER = ["c1", "c2", "c3", "c4"]


def test_commits_are_in_the_order_of_the_history_and_gaps_stay() -> None:
    found = history.history(MEASURED, ORDER)
    assert found.commits == ("away", "c1", "c2", "c3")
    by_case = {line.case: of for line, of in found.values.items()}
    assert by_case["a"] == {"c3": 110.0, "c1": 100.0, "away": 90.0}
    assert by_case["c"] == {"c2": 1.0, "c3": None}


def test_a_cell_that_the_last_commit_lacks_is_listed() -> None:
    assert [line.case for line in history.history(MEASURED, ORDER).lost()] == ["b"]


def test_the_last_row_of_a_commit_counts_and_machines_are_apart() -> None:
    again = [row("a", "c1", 1.0), row("a", "c1", 2.0), row("a", "c1", 9.0, config={"machine": "m"})]
    found = history.history(again, ORDER)
    assert [of["c1"] for of in found.values.values()] == [9.0, 2.0]


def test_the_page_shows_changes_gaps_failures_and_escapes_names() -> None:
    text = history.page(history.history([*MEASURED, row("<d>", "c3", 5.0)], ORDER))
    assert "+10.00 %" in text and "&lt;d&gt;" in text and "<d>" not in text
    assert "<li>b peak_tensor_bytes</li>" in text
    assert text.count(">missing<") == 1 and text.count(">failed<") == 1
    drawings = text.split("<svg")[1:]
    assert [d.count("<rect") for d in drawings] == [3, 1, 2, 3]  # <d>, a, b, c
    assert [d.count("<circle") for d in drawings] == [1, 3, 2, 1]
    assert history.page(history.history([], ORDER)).endswith("</html>\n")


def test_the_command_reads_files_and_their_past(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "init", "-q"], check=True)
    for value in (1.0, 2.0):
        rows.write(Path("rows.jsonl"), [row("a", f"older{value}", value)])
        subprocess.run(["git", "add", "rows.jsonl"], check=True)
        subprocess.run([*git, "commit", "-qm", "rows"], check=True)
    rows.write(Path("rows.jsonl"), [row("b", "newest", 3.0)])
    words = ["bench", "history", "rows.jsonl", "--past", "--out", "page.html"]
    monkeypatch.setattr(sys, "argv", words)
    assert program.main() == 0
    told = capsys.readouterr().out
    assert "2 lines over 3 commits: page.html" in told and "missing at newest: a peak" in told
    assert "older1.0: 1<" in Path("page.html").read_text(encoding="utf-8")
    Path("gate.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["bench", "history", "gate.json", "--out", "page.html"])
    assert program.main() == 2
    assert "gate.json: expected what `python -m bench gate --json`" in capsys.readouterr().err
