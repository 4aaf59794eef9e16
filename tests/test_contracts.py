"""What every member of every kind must satisfy. Each is a file that is found by itself."""

import inspect
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ezo import catalogue
from tests.members import concrete, examples

FUNCTIONS = {
    "model": ("build", ["name", "classes", "channels"]),
    "data": ("load", ["name", "root"]),
    "method": ("parts", ["name"]),
    "precision": (
        "make_step",
        ["name", "model", "method", "hyper", "seed", "device", "loss", "bp_optimizer", "ranks"],
    ),
    "estimator": ("difference", ["losses"]),
}
OPTIONAL = {"model": ["size"], "precision": ["estimator"]}
LONGEST_LINE = 110
BUILTIN = [(kind, module) for kind in catalogue.KINDS for module in catalogue.members(kind)]


every_member = pytest.mark.parametrize(
    ("kind", "module"), BUILTIN, ids=[module.__name__ for _, module in BUILTIN]
)


@every_member
def test_member_describes_itself_in_one_short_line(kind: str, module: ModuleType) -> None:
    first = (module.__doc__ or "").splitlines()[0]
    assert first == first.strip()
    assert 10 <= len(first) <= LONGEST_LINE
    assert first.endswith(".")


@every_member
def test_member_has_the_function_of_its_kind(kind: str, module: ModuleType) -> None:
    function, parameters = FUNCTIONS[kind]
    found = list(inspect.signature(getattr(module, function)).parameters)
    assert found in (parameters, [*parameters, *OPTIONAL.get(kind, [])])
    assert getattr(module, function).__doc__


@every_member
def test_member_is_found_by_each_of_its_names(kind: str, module: ModuleType) -> None:
    assert isinstance(module.NAMES, tuple) and module.NAMES
    for name in module.NAMES:
        assert catalogue.find(kind, concrete(name)) is module


@pytest.mark.parametrize("kind", catalogue.KINDS)
def test_names_are_unique_within_their_kind(kind: str) -> None:
    names = catalogue.names(kind)
    assert names and len(set(names)) == len(names)
    for name in examples(kind):
        matching = [
            n for n in names if re.fullmatch(re.sub("<\\w+>", "\\\\d+", re.escape(n)), name)
        ]
        assert len(matching) == 1


@pytest.mark.parametrize("kind", catalogue.KINDS)
@pytest.mark.parametrize("name", ["nonsense", "", "elastic-", "elastic-x", "lenet5 ", "_files"])
def test_an_unknown_name_lists_the_known_names(kind: str, name: str) -> None:
    with pytest.raises(ValueError) as error:
        catalogue.find(kind, name)
    known = ", ".join(catalogue.names(kind))
    if kind in catalogue.OF_THE_USER:
        known += f", or {catalogue.OF_THE_USER[kind][1]}"
    assert str(error.value) == f"unknown {kind} '{name}'; known: {known}"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("model", "INPUT = 'image'\ndef build(name, classes, channels): return name"),
        ("data", "def load(name, root): return name"),
        ("method", "def parts(name): return name"),
        (
            "precision",
            "def make_step(name, model, method, hyper, seed, device, loss, bp_optimizer, ranks):"
            " return name",
        ),
        ("estimator", "POINTS = (1, -1)\ndef difference(losses): return losses"),
    ],
)
def test_a_new_file_is_found_by_being_there(
    drop_in: Callable[[str, str, str], Path], kind: str, body: str
) -> None:
    before = catalogue.names(kind)
    drop_in(kind, "novel", f'"""A new one."""\nNAMES = ("novel", "novel-<n>")\n{body}\n')
    assert sorted(catalogue.names(kind)) == sorted([*before, "novel", "novel-<n>"])
    for name in ("novel", "novel-17"):
        function = getattr(catalogue.find(kind, name), FUNCTIONS[kind][0])
        assert function(name, *[None] * (len(FUNCTIONS[kind][1]) - 1)) == name


def test_a_file_with_an_underscore_is_no_member(drop_in: Callable[[str, str, str], Path]) -> None:
    drop_in("model", "_helper", "raise AssertionError('imported')")
    assert "_helper" not in catalogue.names("model")


@pytest.mark.parametrize(("name", "number"), [("elastic-2", 2), ("a-rot45", 45), ("lenet5", 5)])
def test_number_is_the_integer_at_the_end(name: str, number: int) -> None:
    assert catalogue.number(name) == number


def test_number_of_a_name_without_one_is_an_error() -> None:
    with pytest.raises(ValueError, match="ends in an integer, got 'full-zo'"):
        catalogue.number("full-zo")
