"""Whole steps of the exported C against Python's, byte for byte, over methods and options."""

import itertools

import numpy as np
import pytest
import torch

from bench.mcu.native import Native
from ezo import export
from ezo.export import arena
from ezo.export.describe import describe
from ezo.export.write import digest
from tests.export.networks import CLASSES, data, make, train

STEPS = 12
CASES = {
    "full-zo": ("mlp", 0, {"rate": 20_000, "fraction": False, "p_zero": 0.5}, 8),
    "full-zo-fine": ("cnn", 0, {"rate": 1 << 16, "magnitude": "absolute"}, 5),
    "elastic-1": ("mlp", 1, {"rate": 9_000, "mu": 3}, 8),
    "elastic-2": ("cnn", 2, {"rate": 64_700, "magnitude": "absolute", "mu": 2}, 7),
    "elastic-2-coarse": ("cnn", 2, {"rate": 50_000, "fraction": False, "mu": 4}, 7),
    "elastic-1-blocks": ("plain", 1, {"rate": 40_000, "mu": 3}, 6),
    "elastic-2-odd": ("odd", 2, {"rate": 30_000, "mu": 6, "seed": (1 << 64) - 3}, 3),
    "full-bp": ("odd", "all", {"mu": 1}, 5),
    "full-bp-coarse": ("mlp", "all", {"mu": 3, "fraction": False}, 1),
    "tail-only-1": ("plain", 1, {"zo": False, "mu": -2}, 4),
    "tail-only-2": ("cnn", 2, {"zo": False, "mu": 3}, 9),
    "tail-only-2-coarse": ("mlp", 2, {"zo": False, "mu": -20, "fraction": False}, 9),
    "queries": ("mlp", 1, {"rate": 60_000, "queries": 3, "mu": 3}, 4),
    "queries-zo": ("cnn", 0, {"rate": 1 << 24, "queries": 2, "magnitude": "absolute"}, 3),
    "minus": ("mlp", 2, {"rate": 9_000, "bp_gradient": "minus", "mu": 3}, 8),
    "last": ("mlp", 1, {"rate": 60_000, "bp_gradient": "last", "queries": 2, "mu": 3}, 8),
    "unperturbed": ("cnn", 2, {"rate": 9_000, "bp_gradient": "unperturbed", "queries": 2}, 8),
    "small-noise": ("mlp", 1, {"rate": 65_536, "r_max": 1, "p_zero": 0.9, "mu": 5}, 8),
    "large-noise": ("odd", 1, {"rate": 65_536, "r_max": 63, "magnitude": "absolute"}, 8),
    "one-difference": ("mlp", 0, {"rate": 99_999, "magnitude": "absolute", "queries": 3,
                                  "largest_difference": 1}, 2),
}  # fmt: skip


def _same(case, tmp_path, way=None, flags=()):
    name, bp, options, batch = case
    network, optimizer = make(name, bp, **options)
    x, y = data(name)
    planned = export.write(network, optimizer, x=x, batch=batch, out=tmp_path, way=way)
    device = Native(tmp_path, planned, *flags)
    assert device.check() == 0
    groups = optimizer.param_groups
    rate, mu = max(g["rate"] for g in groups), max(g["mu"] if not g["zo"] else -20 for g in groups)
    fresh = True
    for loss in train(network, optimizer, x, y, STEPS, batch):
        assert device.train(x.m, y, 1, rate, mu, fresh) == digest(optimizer)
        assert device.losses == [loss]
        fresh = False
    problem = describe(network, optimizer, x)
    at = planned.places["weights"]
    weights = np.frombuffer(device.arena(), np.int8)[at : at + problem.trained]
    np.testing.assert_array_equal(weights, problem.weights[problem.frozen :])
    for k in range(5):
        with torch.no_grad():
            logits = network(type(x)(x.m[k : k + 1], x.e)).m[0].tolist()
        assert device.predict(x.m[k], CLASSES[name]) == (logits.index(max(logits)), logits)


@pytest.mark.parametrize("case", CASES)
def test_every_step_has_pythons_bytes(case, tmp_path):
    _same(CASES[case], tmp_path)


def _every_way(case):
    network, optimizer = make(CASES[case][0], CASES[case][1], **CASES[case][2])
    return arena.ways(describe(network, optimizer, data(CASES[case][0])[0]))


@pytest.mark.parametrize(
    ("case", "place"),
    [("elastic-2", i) for i in range(0, len(_every_way("elastic-2")), 2)]
    + [("elastic-1-blocks", i) for i in range(0, len(_every_way("elastic-1-blocks")), 9)],
)
def test_every_way_to_run_a_batch_has_the_same_bytes(case, place, tmp_path):
    way = _every_way(case)[place]
    _same(CASES[case], tmp_path, way)


@pytest.mark.parametrize("case", ["elastic-2", "elastic-1-blocks", "elastic-2-odd"])
def test_two_products_an_instruction_are_the_same_bytes(case, tmp_path):
    ways = [way for way in _every_way(case) if way.dsp]
    _same(CASES[case], tmp_path, ways[-1], ("-DEZO_DSP_IN_C",))


def test_the_cases_cover_every_option():
    options = [{"magnitude": "sign", "bp_gradient": "plus"} | c[2] for c in CASES.values()]
    for name, values in {
        "magnitude": {"sign", "absolute"},
        "bp_gradient": {"plus", "minus", "last", "unperturbed"},
    }.items():
        assert {o[name] for o in options} == values
    ways = itertools.chain.from_iterable(map(_every_way, ("elastic-2", "elastic-1-blocks")))
    assert {way.name for way in ways} >= {"A", "B", "C", "CB", "A plain"}
