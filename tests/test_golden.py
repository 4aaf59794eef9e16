"""Today's steps end in the bits of commit d2ba16e, whatever kernels do the work."""

import json
from pathlib import Path

import pytest
from golden import make

GOLDEN = json.loads(Path(make.__file__).with_name("golden.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("cases", [make.integers, make.nodes, make.floats])
def test_steps_end_in_the_golden_bits(cases: object) -> None:
    found = dict(cases())  # type: ignore[operator]
    assert found == {name: GOLDEN[name] for name in found}


def test_every_golden_digest_has_its_case() -> None:
    assert make.digests().keys() == GOLDEN.keys()
