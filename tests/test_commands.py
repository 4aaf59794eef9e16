"""The commands beside a report's cases do what they say."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as bench
from bench import memory
from bench.grid import Grid
from ezo import rows
from reproduce import folder
from reproduce.commands import commands

PAPER = Path(__file__).parent.parent / "reports" / "paper"


def resolved(command: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> str:
    """What the grid makes of a command."""
    words = shlex.split(command)
    assert words[:4] == ["python", "-m", "bench", "run"]
    monkeypatch.setattr("sys.argv", ["bench", *words[3 : words.index("--out")], "--list"])
    assert bench.main() == 0, command
    return str(capsys.readouterr().out)


def test_every_measured_case_s_command_resolves_to_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kept = [row for row in folder.read_rows(PAPER) if row.seed is None]
    seen = {}
    for case, every in commands(kept).items():
        for command in filter(None, every.split("; ")):
            told = command.partition(" --out ")[0]
            if told not in seen:
                seen[told] = resolved(command, monkeypatch, capsys)
            assert "1 cell" in seen[told], command
            if " run memory " in command:
                assert f"{case} " in seen[told], (case, seen[told])
    assert len(seen) > 30


def test_a_streamed_case_s_command_names_its_chunk(
    monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    how = {"precision": ["int8"], "chunk": [8], "threads": [2], "batch_size": [16]}
    (case,) = Grid(["lenet5"], ["full-zo"], **how).cells(memory)
    row = case.row("peak_tensor_bytes", 1, "B", benchmark="memory")
    command = commands([row])[case.name]
    assert "--chunk 8" in command and "--precision 'int8'" in command
    assert case.name in resolved(command, monkeypatch, capsys)
    assert isinstance(row, rows.Row)
