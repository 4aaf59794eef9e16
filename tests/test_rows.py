"""Rows go to a file and come back the same, one JSON object a line."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ezo import rows
from ezo.rows import Row

ROW = Row(case="a run", metric="test_accuracy", value=98.5, unit="%")

whole = st.integers(-(2**63) + 1, 2**63 - 1)
numbers = st.none() | whole | st.floats(allow_nan=False, allow_infinity=False)
configs = st.dictionaries(st.text(), numbers | st.booleans() | st.text(), max_size=3)


@settings(deadline=None)
@given(
    st.lists(
        st.builds(Row, st.text(), st.text(), numbers, st.text(), note=st.text(), config=configs)
    )
)
def test_what_is_written_comes_back(
    tmp_path_factory: pytest.TempPathFactory, written: list[Row]
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    rows.write(path, written)
    assert rows.read(path) == written


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\x0b", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_line_separator_within_text_does_not_split_a_row(tmp_path: Path, separator: str) -> None:
    row = replace(ROW, note=f"one{separator}two")
    rows.write(tmp_path / "rows.jsonl", [row])
    assert rows.read(tmp_path / "rows.jsonl") == [row]


def test_one_row_is_one_line_of_json_with_every_field(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.write(path, [ROW, replace(ROW, note="Zürich ±1")])
    lines = path.read_bytes().decode("utf-8").split("\n")
    assert len(lines) == 3 and lines[-1] == ""
    assert list(json.loads(lines[0])) == [field.name for field in fields(Row)]
    assert "Zürich ±1" in lines[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_null_and_says_so_in_its_note(value: float) -> None:
    written = json.loads(replace(ROW, value=value, note="at step 3").json())
    assert written["value"] is None
    assert written["note"] == f"{value} at step 3"
    assert json.loads(replace(ROW, value=value).json())["note"] == str(value)


def test_writing_replaces_unless_told_to_append(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "rows.jsonl"
    rows.write(path, [ROW])
    rows.write(path, [replace(ROW, step=1)], append=True)
    assert [row.step for row in rows.read(path)] == [None, 1]
    rows.write(path, [replace(ROW, step=2)])
    assert [row.step for row in rows.read(path)] == [2]


@pytest.mark.parametrize(
    "line", ["", "{", '{"case": "a"}', '{"surprise": 1}', "[1]", "7", '"text"', "\0\0\0"]
)
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{ROW.json()}\n{line}\n{ROW.json()}\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 2: expected a row.*remove the line"):
        rows.read(path)


def test_provenance_fills_the_fields_of_a_row() -> None:
    row = replace(ROW, **rows.provenance())
    assert set(row.versions) == {"ezo", "torch", "python"}
    assert row.processor
    assert (row.commit == "") == (row.dirty is None)
    assert row.commit == "" or len(row.commit) == 40
