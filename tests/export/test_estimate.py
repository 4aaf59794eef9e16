"""The plan's instructions of a step against those counted, in the rows of reports/mcu."""

from pathlib import Path

import numpy as np
import pytest

from bench.mcu.__main__ import COMMITTED, COUNTED, SMALL
from bench.mcu.cases import Problem
from ezo import rows
from ezo.export import arena, kinds
from ezo.export.describe import Stage, describe


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.name)
def test_the_plan_is_within_a_tenth_of_what_was_counted(case):
    found = [
        row
        for row in rows.read(COMMITTED)
        if row.case == f"{case.name}@cortex-m4-gcc" and row.metric == "step_instructions"
    ]
    problem = Problem(case)
    described = describe(problem.network, problem.optimizer, problem.x)
    planned = arena.plan(described, case.batch, case.ram)
    assert len(found) == 1 and f"way {planned.way.name}" in found[0].note
    assert planned.instructions == pytest.approx(found[0].value, rel=0.1)


def test_the_guides_picture_of_ram_is_the_plans():
    guide = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    picture = next(line for line in guide.splitlines() if line.startswith("    0   "))
    problem = Problem(SMALL)
    described = describe(problem.network, problem.optimizer, problem.x)
    planned = arena.plan(described, SMALL.batch, SMALL.ram)
    places = [planned.places[name] for name in ("state", "weights", "fraction")]
    free = planned.places["moves"] + 4  # what is not there for all of the step
    assert picture.split() == [f"{n:,}" for n in (*places, free, planned.total)]


# Instructions of single layers forward, counted on an emulated Cortex-M4: gcc 12.2, -O2.
COUNTS = [
    ((1, 28, 28), 6, 5, 2, 2, 307_037, 446_688),
    ((3, 16, 16), 10, 3, 1, 2, 193_083, 406_804),
    ((8, 7, 7), 16, 3, 1, 1, 124_464, 344_227),
    ((6, 14, 14), 12, 5, 0, 1, 252_210, 486_956),
    ((2, 8, 8), 8, 1, 0, 1, 31_427, None),
]


@pytest.mark.parametrize("case", COUNTS)
def test_a_convolution_costs_about_what_was_counted(case):
    (channels, height, width), outputs, kernel, padding, pool, dsp, plain = case
    grown = 2 * padding - kernel + 1
    after = (outputs, (height + grown) // pool, (width + grown) // pool)
    weight = np.zeros(outputs * channels * kernel**2, np.int8)
    stage = Stage("Conv2d", "it", (channels, height, width), after, weight, kernel=kernel,
                  padding=padding, pool=pool)  # fmt: skip
    kind = kinds.find(stage)
    assert kind.instructions(stage, True) == pytest.approx(dsp, rel=0.2)
    if plain is not None:
        assert kind.instructions(stage, False) == pytest.approx(plain, rel=0.2)
