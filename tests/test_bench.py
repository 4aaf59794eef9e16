"""The measuring instruments, on quantities that are known."""

import gc
import math
import time

import pytest
import torch

from bench import grid, memory, timing
from bench.isolate import measure_alone
from bench.memory import peak_bytes
from bench.workload import Workload

KB = 1024


def test_peak_counts_what_is_alive_at_once():
    def step():
        a = torch.zeros(100 * KB, dtype=torch.uint8)
        b = torch.zeros(50 * KB, dtype=torch.uint8)
        del a
        return b + torch.zeros(20 * KB, dtype=torch.uint8)[:1]

    before = peak_bytes(lambda: None)
    assert peak_bytes(step) - before == 150 * KB


def test_peak_counts_tensors_made_before():
    gc.collect()
    before = peak_bytes(lambda: None)
    kept = torch.zeros(64 * KB, dtype=torch.uint8)
    assert peak_bytes(lambda: None) - before == kept.nbytes


def test_peak_counts_a_storage_once_however_many_views():
    x = torch.zeros(10 * KB, dtype=torch.uint8)
    before = peak_bytes(lambda: None)
    assert peak_bytes(lambda: [x.view(2, -1), x[1:], x.view(-1, 2)]) == before


def test_peak_counts_what_autograd_keeps():
    w = torch.zeros(KB, requires_grad=True)

    def forward(keep):
        with torch.set_grad_enabled(keep):
            return w.exp().exp().exp().sum()

    # Without a graph two of the three results live at once; with one all three, and the sum.
    assert peak_bytes(lambda: forward(True)) - peak_bytes(lambda: forward(False)) == 4 * KB + 4


def test_peak_counts_what_a_wrapper_holds_and_not_its_nominal_size():
    class Byte(torch.Tensor):
        """Bytes that pass for float32, as an optimiser's state in 8 bits does."""

        @staticmethod
        def __new__(cls, codes):
            return torch.Tensor._make_wrapper_subclass(cls, codes.shape, dtype=torch.float32)

        def __init__(self, codes):
            self.codes = codes

        @classmethod
        def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
            raise AssertionError("counting calls no operation on it")

        def __tensor_flatten__(self):
            return ["codes"], None

        @classmethod
        def __tensor_unflatten__(cls, inner, meta, size, stride):
            return cls(inner["codes"])

    before = peak_bytes(lambda: None)
    kept = Byte(torch.zeros(64 * KB, dtype=torch.uint8))
    assert peak_bytes(lambda: None) - before == kept.codes.nbytes


def test_a_compiled_step_stays_compiled_while_its_bytes_are_counted():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    step = torch.compile(lambda x: x.exp().exp(), fullgraph=True, backend=backend)
    x = torch.zeros(64 * KB)
    gc.collect()
    before = peak_bytes(lambda: None)
    step(x)
    gc.collect()
    # The fake tensors that the compiler keeps have no memory.
    assert peak_bytes(lambda: None) < before + x.nbytes
    assert peak_bytes(lambda: step(x)) >= before + x.nbytes
    assert len(compiled) == 1


def test_a_leak_of_64_kib_shows_to_the_byte():
    leaked = []

    def step(leak):
        leaked.append(torch.zeros(64 * KB * leak, dtype=torch.uint8))

    step(0)
    before = peak_bytes(lambda: step(0))
    assert peak_bytes(lambda: step(1)) - before == 64 * KB


def exact(rows):
    (row,) = [row for row in rows if row.metric == "peak_tensor_bytes"]
    return row


@pytest.fixture(scope="module")
def peaks():
    found = {}
    for case in grid.cases(memory, "lenet5", ["inference", "full-zo", "elastic-1", "full-bp"], 32):
        row = exact(measure_alone("memory", case))  # this process holds other tests' tensors
        found[row.method] = row.value
    return found


def test_full_zo_needs_at_most_two_percent_more_than_inference(peaks):
    assert peaks["full-zo"] <= 1.02 * peaks["inference"]


def test_elastic_1_needs_at_most_1_7_percent_more_than_full_zo(peaks):
    assert peaks["full-zo"] < peaks["elastic-1"] <= 1.017 * peaks["full-zo"]


def test_full_bp_needs_what_autograd_keeps(peaks):
    assert peaks["full-bp"] > 1.5 * peaks["inference"]


def test_measuring_again_gives_the_same_bytes(peaks):
    row = exact(measure_alone("memory", Workload("lenet5", "elastic-1")))
    assert row.value == peaks["elastic-1"]
    assert row.unit == "B" and row.versions["torch"] == torch.__version__


# Seconds


def test_a_visit_times_each_step_by_a_clock():
    found = timing.visit(lambda: time.sleep(0.01), 3)
    assert len(found) == 3 and min(found) >= 0.01
    assert max(timing.visit(lambda: time.sleep(0.05), 2, clock="cpu")) < 0.05


def test_the_ratio_of_steps_in_turn_is_that_of_their_seconds():
    def step(seconds):
        until = time.thread_time() + seconds
        while time.thread_time() < until:
            pass
        return 1.0

    steps = {"a": lambda: step(0.004), "b": lambda: step(0.001)}
    found = timing.in_turn(steps, "cpu", rounds=5, visit_seconds=0.01)
    assert {len(samples) for samples in found.values()} == {5}
    assert min(a / b for a, b in zip(*found.values(), strict=True)) > 1
    assert timing.in_turn(steps, "cpu", 0, 0.01) == {"a": [], "b": []}


@pytest.mark.parametrize("loss", [math.nan, math.inf, 0.0, 1e3])
def test_a_step_whose_losses_are_none_is_not_timed(loss):
    with pytest.raises(AssertionError, match="a: expected losses"):
        timing.in_turn({"a": lambda: loss}, "cpu", 1, 0.01)


def test_the_interval_of_a_median_holds_it():
    samples = torch.randn(200, generator=torch.Generator().manual_seed(0))
    low, high = timing.interval(samples)
    assert low < samples.median() < high and high - low < 0.5
    assert timing.interval(torch.ones(5)) == (1.0, 1.0)
