"""The compiled kernels' source, where no run shows a fault on the Python that the tests run on."""

import re
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parents[1] / "ezo" / "csrc").rglob("*.?pp"))
# From Python 3.12 on the kernels are built for its limited API, which has no such macros: other
# names end in lower case, PyTuple_Size, or are nanobind's, NB_TUPLE_GET_SIZE.
MACRO = re.compile(r"\bPy[A-Z][A-Za-z]*_[A-Z]+(?:_[A-Z]+)+\b")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_nothing_is_called_that_the_limited_api_has_not(path: Path) -> None:
    assert MACRO.findall(path.read_text(encoding="utf-8")) == []


def test_such_a_macro_is_found() -> None:
    assert MACRO.findall("PyTuple_GET_SIZE(from) + PyTuple_Size(from)") == ["PyTuple_GET_SIZE"]
