"""The measuring instruments, on quantities that are known."""

import gc

import pytest
import torch

from bench import memory, steptime
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
    for case in memory.cases(["lenet5"], ["inference", "full-zo", "elastic-1", "full-bp"], 32):
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


def test_step_time_is_a_ratio_with_an_interval(monkeypatch):
    monkeypatch.setattr(steptime, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(steptime, "ROUNDS", 3)
    threads = torch.get_num_threads()
    try:
        (row,) = steptime.measure(steptime.Comparison("lenet5", ("full-zo",), 4))
    finally:
        torch.set_num_threads(threads)
    assert row.metric == "step_over_two_forwards" and row.unit == "1"
    assert 0.1 < row.value < 100 and "interval" in row.note  # a busy machine is no failure


def test_a_peer_that_is_not_installed_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(steptime, "ROUND_SECONDS", 0.01)
    monkeypatch.setattr(steptime, "ROUNDS", 2)
    monkeypatch.setitem(__import__("sys").modules, "torchzero", None)
    (row,) = steptime.measure(steptime.Comparison("lenet5", ("torchzero-mezo",), 4))
    assert row.value is None and "not installed" in row.note
