"""The examples' table of trainings: a row each, and none is done twice."""

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from ezo import rows

EXAMPLES = Path(__file__).parent.parent / "examples"
NAMES = {"node_variants": ("--passes", "16"), "update_rules": ("--epochs", "0")}


@pytest.mark.parametrize("name", NAMES)
def test_an_example_keeps_a_row_a_training_and_does_none_twice(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module(name)
    out = tmp_path / "rows.jsonl"
    words = [*NAMES[name], "--held-out", "1200", "--seeds", "1", "--factors", "1"]
    monkeypatch.setattr(sys, "argv", [name, *words, "--out", str(out)])
    example.main()
    told = capsys.readouterr().out
    found = rows.read(out)
    variants = getattr(example, "VARIANTS", None) or example.RULES
    assert [row.method for row in found] == list(variants)
    assert len(told.splitlines()) == 2 + len(variants)
    monkeypatch.setattr(example, "trained", None)
    example.main()
    assert capsys.readouterr().out == told and rows.read(out) == found


@pytest.mark.parametrize("factor", ["0", "-1", "inf", "nan"])
def test_a_factor_that_scales_nothing_is_refused(
    factor: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    example = importlib.import_module("update_rules")
    monkeypatch.setattr(sys, "argv", ["update_rules", f"--factors={factor}"])
    with pytest.raises(SystemExit):
        example.main()
    assert "expected a factor above 0" in capsys.readouterr().err
