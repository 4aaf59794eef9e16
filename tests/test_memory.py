"""The four figures of a memory cell."""

import gc
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import grid, memory
from bench.isolate import measure_alone
from bench.workload import Workload
from ezo.livebytes import KINDS

CASES = (
    *(Workload("lenet5", m, 8) for m in ("full-zo", "elastic-4", "full-bp", "full-bp-checkpoint")),
    *(Workload("lenet5", m, 8, precision="int8") for m in ("inference", "elastic-2", "full-bp")),
    *(Workload("lenet5", m, 8, chunk=3) for m in ("full-zo", "elastic-2")),
    Workload("lenet5", "elastic-2", 8, precision="int8", chunk=3),
)


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def measured(request):
    return measure_alone("memory", request.param)


def values(rows, metric):
    return [row.value for row in rows if row.metric == metric]


def test_analytic_exact_and_their_parts_agree_to_the_byte(measured):
    (exact,), (analytic,) = (values(measured, m) for m in ("peak_tensor_bytes", "analytic_bytes"))
    # A step that follows another may find its loss, 4 bytes, still alive.
    assert 0 <= exact - analytic <= 4
    assert sum(sum(values(measured, f"bytes_{kind}")) for kind in KINDS) == analytic
    assert sum(sum(values(measured, f"analytic_bytes_{kind}")) for kind in KINDS) == analytic
    assert sum(values(measured, "analytic_module_bytes")) == analytic


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        ("elastic-lean-2", "fp32"),
        ("elastic-lean-3", "fp32"),
        ("elastic-1", "int8"),
        ("elastic-2", "int8"),
    ],
)
def test_where_bp_holds_nothing_during_a_pass_the_peak_is_full_zos(method, precision):
    case = Workload("lenet5", method, 32, precision=precision)
    peaks = []
    for one in (case, replace(case, method="full-zo")):
        model, step = one.prepare()
        step()
        gc.collect()
        peaks.append(memory.peak_bytes(step))
    assert peaks[0] == peaks[1]


def test_the_heap_holds_the_tensors_and_a_little_more(measured):
    (exact,), (heap,) = (values(measured, m) for m in ("peak_tensor_bytes", "heap_peak_bytes"))
    assert exact <= heap < exact + 1_000_000


def test_resident_memory_holds_the_heap(measured):
    (heap,), (resident,) = (values(measured, m) for m in ("heap_peak_bytes", "rss_peak_bytes"))
    assert resident > heap


def test_every_split_is_a_cell():
    found = [case.method for case in grid.cases(memory, "lenet5", None, 32)]
    assert found == [
        "inference", "full-zo", "elastic-1", "elastic-2", "elastic-3", "elastic-4", "full-bp",
        "full-bp-checkpoint",
    ]  # fmt: skip


def test_an_analytic_figure_that_is_off_names_the_kind(monkeypatch):
    """As of a step that can't be known from shapes: what it keeps depends on values."""

    class Kept(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.zeros(1000))
            self.kept = None

        def forward(self):
            self.kept = torch.zeros(5000) if self.w.sum().item() < 0.5 else None
            return self.w.sum()

    def prepare(self):
        model = Kept()
        return model, torch.no_grad()(model)

    monkeypatch.setattr(Workload, "prepare", prepare)
    found = memory.measure(Workload("lenet5", "inference"))
    (note,) = [row.note for row in found if row.metric == "analytic_bytes"]
    assert "% off, mostly by" in note and "in place of" in note


def test_a_peer_that_is_not_installed_is_one_row_that_says_so(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torchzero", None)
    (row,) = memory.measure(Workload("lenet5", "torchzero-mezo", 4))
    assert row.value is None and row.note == "not installed: torchzero"
