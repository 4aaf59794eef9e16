"""The benchmarks on CUDA: events, the allocator, and that nothing is made on another device.

No GPU is asked for. Stand-ins take the place of torch's events and of its allocator's counters;
where a step's tensors lie is seen on torch's device ``meta``, which computes nothing, has no
generators and, as a GPU, takes no tensors of the CPU's but single numbers.
"""

import contextlib
import dataclasses
import importlib
import time
from collections import Counter

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench import gate, gpu, peers, scaling, timing, tiny
from bench import time as step_time
from bench.__main__ import benchmarks
from bench.compare import ALLOCATED, HEAP
from bench.cuda import Allocated, allocated, explained, planned, standing_bytes
from bench.gate.judging import Finding
from bench.gate.measuring import Gate, Settings
from bench.gate.sides import Side
from bench.grid import Grid
from bench.workload import Workload
from ezo import check
from ezo.int8.ops import _int_mm_is_exact
from ezo.phases import phase


class Device:
    """A GPU's own line of work: what is given to it takes its time, and nobody waits."""

    def __init__(self) -> None:
        self.at = 0.0  # seconds, when it will have done all
        self.seen = 0.0  # until when somebody waited
        self.waits = 0

    def work(self, seconds: float) -> None:
        self.at += seconds

    def synchronize(self, device: object = None) -> None:
        self.seen, self.waits = self.at, self.waits + 1

    def event(self, enable_timing: bool = False) -> "Event":
        assert enable_timing
        return Event(self)


class Event:
    def __init__(self, device: Device) -> None:
        self.device = device

    def record(self, stream: object) -> None:
        assert stream == "the stream of cuda"
        self.at = self.device.at

    def elapsed_time(self, end: "Event") -> float:
        assert end.at <= self.device.seen, "not done yet"
        return 1e3 * (end.at - self.at)


@pytest.fixture
def device(monkeypatch):
    found = Device()
    monkeypatch.setattr(torch.cuda, "Event", found.event)
    monkeypatch.setattr(torch.cuda, "synchronize", found.synchronize)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    return found


# Seconds


def test_a_visit_on_cuda_is_timed_by_events_and_waits_at_its_ends_alone(device):
    device.work(7.0)  # given before: no part of a step
    assert timing.visit(lambda: device.work(0.25), 3, "cuda") == [0.25] * 3
    assert device.waits == 2


def test_steps_in_turn_on_cuda_last_as_long_as_the_device_works(device):
    def step(seconds):
        device.work(seconds)
        return 1.0

    steps = {"a": lambda: step(0.5), "b": lambda: step(0.125)}
    found = timing.in_turn(steps, "cuda", rounds=3, visit_seconds=1.0)
    assert found == {"a": [0.5] * 3, "b": [0.125] * 3}


def test_phases_on_cuda_are_between_events_and_no_step_waits_within(device):
    def step():
        for name, seconds in (("perturb", 0.5), ("forward", 0.25), ("perturb", 0.5)):
            before = device.waits
            with phase(name):
                device.work(seconds)
            assert device.waits == before
        device.work(0.125)

    found = step_time.phases(step, 2, "cuda")
    assert found["perturb"] == [1.0, 1.0] and found["forward"] == [0.25, 0.25]
    assert found["other"] == [0.125, 0.125] and found["backward"] == [0.0, 0.0]


def test_the_script_of_all_gpu_rows_has_the_same_instrument(device):
    found = gpu.Bench("cuda", small=True, until=time.monotonic() + 60)
    assert found.once(lambda: device.work(0.25), 4) == 0.25
    assert found.once(lambda: device.work(0.25), 4, "cpu") < 0.25  # a clock of the processor's


def test_the_processor_s_clock_is_refused_on_cuda(device):
    with pytest.raises(ValueError, match="expected the clock wall on cuda.* got cpu.*leave it out"):
        timing.visit(lambda: None, 1, "cuda", "cpu")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"clock": "cpu"}, "expected the clock wall on cuda"),
        ({"plant": "slowdown-2x"}, "expected no --plant slowdown-2x on cuda"),
    ],
)
def test_the_gate_refuses_on_cuda_what_is_the_processor_s(words, told, monkeypatch):
    monkeypatch.setattr(check, "device", lambda name: None)
    settings = dataclasses.replace(Settings(), **words)
    on_gpu = dataclasses.replace(gate.CELLS[0], device="cuda")
    gate._check_devices(gate.CELLS, settings)
    with pytest.raises(ValueError, match=told):
        gate._check_devices([gate.CELLS[0], on_gpu], settings)


def test_the_gate_compares_no_events_with_a_clock_s_seconds(tmp_path):
    old, new = {"step_seconds": 1}, {"step_seconds": 1, "step_seconds on cuda": 2}
    sides = {
        label: Side(label, "", False, tmp_path, definitions=of)
        for label, of in (("base", old), ("head", new))
    }
    found = Finding(Workload("lenet5", "full-zo"), "step_seconds", 1.0, 1.0, "same", 0)
    on_gpu = dataclasses.replace(found, cell=Workload("lenet5", "full-zo", device="cuda"))
    compare = Gate(sides, Settings())._defined
    assert compare(found) == found
    assert compare(on_gpu).verdict == "not measured"
    assert "definition 1, head by 2" in compare(on_gpu).note


# Where tensors lie


SLOW = pytest.mark.filterwarnings("ignore:no kernels for:UserWarning")


class Places(TorchDispatchMode):
    """Counts the tensors of more than one number that are made, by device."""

    def __init__(self):
        super().__init__()
        self.made = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 1.0 if args[0].dtype.is_floating_point else 1
        result = func(*args, **(kwargs or {}))
        found = [t for t in tree_iter(result) if isinstance(t, Tensor) and t.dim()]
        self.made.update(t.device.type for t in found)
        return result


class Seeded:
    """In place of `torch.Generator`, of which ``meta`` has none."""

    def __init__(self, device="cpu"):
        assert torch.device(device).type == "meta"

    def manual_seed(self, seed):
        return None  # torch's own, which is there


def places(make):
    """The devices of what two steps make."""
    _int_mm_is_exact()  # asked once, of the CPU
    with Places():  # numbers of the preparation
        _, step = make()
    with Places() as seen:
        step()
        step()
    return set(seen.made)


STEPS = [
    *(("fp32", method) for method in ("inference", "full-zo", "elastic-1", "full-bp")),
    ("int8", "full-zo"),
    ("int8*", "inference"),
]


@SLOW
@pytest.mark.parametrize(("precision", "method"), STEPS)
def test_our_steps_make_every_tensor_on_the_device(precision, method):
    case = Workload("lenet5", method, 2, precision=precision, device="meta")
    assert places(case.prepare) == {"meta"}


@SLOW
def test_streamed_steps_make_every_tensor_on_the_device():
    case = Workload("lenet5", "elastic-2", 4, device="meta", chunk=2)
    assert places(case.prepare) == {"meta"}


@pytest.mark.parametrize("name", peers.names())
def test_peers_steps_make_every_tensor_on_the_device(name, monkeypatch):
    stance = contextlib.nullcontext()
    if name == "torchao-adam8bit":  # compiles its step, which nothing could see into
        stance = torch.compiler.set_stance("force_eager")
    if name == "torchzero-mezo":
        monkeypatch.setattr(torch, "Generator", Seeded)
    try:
        with stance:
            found = places(Workload("lenet5", name, 4, device="meta").prepare)
    except ModuleNotFoundError as error:
        pytest.skip(f"{error.name} is not installed")
    assert found == {"meta"}


@SLOW
@pytest.mark.parametrize("way", tiny.WAYS)
@pytest.mark.parametrize("model", ["resnet8", "autoencoder"])
def test_the_networks_of_mlperf_tiny_go_to_the_device(model, way):
    case = tiny.Tiny(model, "inference", 4, device="meta")
    assert case.name.endswith("threads1-meta-tiny")
    assert places(lambda: tiny.prepared(case, way)) == {"meta"}


@SLOW
@pytest.mark.parametrize(("model", "axis"), [("lenet5", "batch"), ("convnet", "width")])
def test_what_grows_grows_on_the_device(model, axis):
    case = scaling.Series(model, "inference", axis, 4, device="meta")
    assert places(lambda: case.prepare(4)) == {"meta"}


DEVICES = ("cpu", "cuda:0")
BENCHMARKS = [name for name in benchmarks() if name != "conformance"]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_cell_on_each_device_has_a_name_of_its_own(name):
    benchmark = importlib.import_module(f"bench.{name}")
    model = getattr(benchmark, "MODELS", ("lenet5",))[0]
    of_both = Grid([model], device=DEVICES).cells(benchmark)
    assert len({case.name for case in of_both}) == len(of_both)
    assert {case.device for case in of_both} == set(DEVICES)


def test_conformance_which_has_models_of_its_own_refuses_a_device():
    with pytest.raises(ValueError, match="expected no device for bench.conformance.*leave it out"):
        Grid(["lenet5"], device=["cuda"]).cells(importlib.import_module("bench.conformance"))


# Bytes


class Counters:
    """The allocator's, of a step that asks for 3,000 B while 1,000 B stand that are no tensor's."""

    def __init__(self, monkeypatch, device):
        self.inside = False
        before = standing_bytes("cpu")
        monkeypatch.setattr("bench.cuda.standing_bytes", lambda name: before)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda name: None)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda name: before + 4_096)
        stats = {
            "requested_bytes.all.current": before + 1_000,
            "requested_bytes.all.peak": before + 4_000,
        }
        monkeypatch.setattr(torch.cuda, "memory_stats", lambda name: stats)
        self.before = before


def test_the_allocator_s_peak_is_told_apart(device, monkeypatch):
    counters = Counters(monkeypatch, device)
    done = []
    found = allocated(lambda: done.append(device.waits), "cuda")
    assert done == [1] and device.waits == 2  # nothing else runs meanwhile, and the step ends
    before = counters.before
    assert found == Allocated(before + 4_096, before + 4_000, 1_000)


def test_what_a_plan_lacks_is_explained_where_it_is_more_than_two_percent():
    near, far = Allocated(1_019_000, 1_010_000, 0), Allocated(1_030_000, 1_010_000, 8_000)
    assert ":" not in explained(1_000_000, near)[1]
    ratio, note = explained(1_000_000, far)
    assert ratio == 1_000_000 / 1_030_000
    assert note.endswith("20,000 B rounded up, 8,000 B workspaces, +2,000 B in operators")


def test_standing_bytes_are_of_each_storage_once_with_gradients():
    before, elsewhere = standing_bytes("cpu"), standing_bytes("meta")
    x = torch.zeros(250, requires_grad=True)
    view = x.detach()[:10]
    assert standing_bytes("cpu") - before == 1_000
    x.sum().backward()
    assert standing_bytes("cpu") - before == 2_000
    assert standing_bytes("meta") == elsewhere
    del view


def test_on_cuda_integers_are_planned_as_the_reference_holds_them():
    peaks = {
        (precision, device): planned(
            Workload("lenet5", "inference", 8, precision=precision, device=device)
        ).peak_bytes
        for precision in ("int8", "fp32")
        for device in DEVICES
    }
    assert peaks["int8", "cuda:0"] > 1.5 * peaks["int8", "cpu"]
    assert peaks["fp32", "cuda:0"] == peaks["fp32", "cpu"]


@pytest.fixture
def on_cuda(device, monkeypatch):
    """The benchmarks believe themselves on CUDA; the tensors are the CPU's, a step takes 1 s."""
    prepare = Workload.prepare

    def prepared(self, **changes):
        model, step = prepare(dataclasses.replace(self, device="cpu"), **changes)

        def timed():
            device.work(1.0)
            return step()

        return model, timed

    monkeypatch.setattr(Workload, "prepare", prepared)
    Counters(monkeypatch, device)
    return device


def measured(name, method="full-zo", **how):
    benchmark = importlib.import_module(f"bench.{name}")
    (case, *_) = Grid(["lenet5"], [method], [4], device=["cuda"]).cells(benchmark)
    rows = benchmark.measure(case, **getattr(benchmark, "SMOKE", {}), **how)
    assert all(row.device == "cuda" for row in rows)
    return {row.metric: row for row in rows}, rows


def test_memory_on_cuda_is_the_allocator_s_beside_the_plan(on_cuda):
    found, _ = measured("memory")
    assert found["heap_peak_bytes"].value is None
    assert "not measured: on CUDA tensors are not on the heap" in found["heap_peak_bytes"].note
    peak, plan = found["cuda_peak_bytes"].value, found["analytic_bytes"].value
    assert found["analytic_over_cuda"].value == plan / peak
    assert found["cuda_workspace_bytes"].value == 1_000
    assert found["cuda_requested_bytes"].value == peak - 96


def test_a_comparison_on_cuda_has_events_ratios_and_the_allocator_s_bytes(on_cuda):
    found, rows = measured("compare")
    assert found["step_over_two_forwards"].value == 0.5  # of events: each step lasts 1 s there
    assert ALLOCATED in found and HEAP not in found
    text = importlib.import_module("bench.compare").table(rows)
    assert "| allocated / inference |" in text and "heap" not in text


def test_time_and_noises_on_cuda_are_events(on_cuda):
    found, _ = measured("time")
    assert found["step_seconds"].value == found["step_over_inference"].value == 1.0
    _, rows = measured("noises")
    assert {row.value for row in rows} == {0.5}


def test_streaming_on_cuda_is_events_and_the_allocator_s_bytes(on_cuda):
    found, rows = measured("streaming")
    assert "allocated_peak_bytes" in found and "heap_peak_bytes" not in found


def test_precisions_on_cuda_leave_out_what_only_tiles_have(on_cuda):
    found, _ = measured("precisions")
    assert found["fp32_over_int8"].value == found["full_bp_over_int8"].value == 1.0
    assert "fp32_allocated_over_int8" in found and "fp32_heap_over_int8" not in found
    whole = found["fp32_over_int8-whole"]
    assert whole.value is None and "no layer is tiled" in whole.note
