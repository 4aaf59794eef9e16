"""The exported C on emulated processors: the same bytes, nothing beyond the arena, little stack."""

import pytest
import torch

from bench.mcu import compilers
from bench.mcu.elf import Elf
from bench.mcu.emulator import FILL, Device
from ezo import export
from ezo.export.write import digest
from tests.export.networks import data, make, train

PROCESSORS = ("cortex-m0+", "cortex-m4", "cortex-m33")
CASES = {
    "elastic-2": ("cnn", 2, {"rate": 64_700, "magnitude": "absolute", "mu": 2}, 7),
    "full-zo": ("mlp", 0, {"rate": 20_000, "fraction": False, "p_zero": 0.5}, 8),
    "tail-only-2": ("mlp", 2, {"zo": False, "mu": 3}, 9),
}
STACK_BYTES = 1280  # the plan leaves 2,048
CODE_BYTES = 17 * 1024  # by clang -Os; gcc -O2 has a gate of 16 KiB in `tox -e mcu`


def _device(case, processor, tmp_path):
    name, bp, options, batch = CASES[case]
    network, optimizer = make(name, bp, **options)
    x, y = data(name)
    planned = export.write(network, optimizer, x=x, batch=batch, out=tmp_path)
    program = compilers.link(tmp_path, "zig", processor)
    return network, optimizer, Device(program, planned.total, processor)


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize("case", CASES)
def test_an_emulated_processor_has_pythons_bytes(case, processor, tmp_path):
    name, _, _, batch = CASES[case]
    network, optimizer, device = _device(case, processor, tmp_path)
    x, y = data(name)
    assert device.call("drive_check", device.arena) == 0
    rate = max(group["rate"] for group in optimizer.param_groups)
    mu = max((g["mu"] for g in optimizer.param_groups if not g["zo"]), default=0)
    numbers = device.put(x.m.numpy().tobytes())
    labels = device.put(y.to(torch.uint8).numpy().tobytes())
    fresh = 1
    for _ in train(network, optimizer, x, y, 4, batch):
        got = device.call("drive", device.arena, numbers, labels, len(y), 1, rate, mu, fresh, 0)
        assert got == digest(optimizer)
        fresh = 0
    assert set(device.before_arena()) <= {FILL}  # behind it, memory ends
    assert device.stack_bytes() <= STACK_BYTES


@pytest.mark.parametrize("processor", [*PROCESSORS, "rv32imc"])
def test_nothing_is_asked_of_a_library_but_two_functions(processor, tmp_path):
    name, bp, options, batch = CASES["elastic-2"]
    network, optimizer = make(name, bp, **options)
    export.write(network, optimizer, x=data(name)[0], batch=batch, out=tmp_path)
    files = [Elf(path) for path in compilers.objects(tmp_path, "zig", processor)]
    ours = {s.name for file in files for s in file.symbols if s.defined}
    asked = set().union(*(file.undefined() for file in files)) - ours
    allowed = {"memcpy", "memset"} | compilers.PROCESSORS[processor].helpers
    assert asked <= allowed


def test_code_is_small(tmp_path):
    name, bp, options, batch = CASES["elastic-2"]
    network, optimizer = make(name, bp, **options)
    export.write(network, optimizer, x=data(name)[0], batch=batch, out=tmp_path)
    files = compilers.objects(tmp_path, "zig", "cortex-m4", "-Os")
    runtime = [f for f in files if not f.name.startswith(("drive", "ezo_model", "ezo_check"))]
    assert sum(Elf(file).flash() for file in runtime) <= CODE_BYTES
    assert sum(Elf(file).ram() for file in runtime) == 0  # no state of its own


def test_instructions_are_counted_and_never_vary(tmp_path):
    counts = []
    for _ in range(2):
        name, bp, options, batch = CASES["full-zo"]
        network, optimizer = make(name, bp, **options)
        x, y = data(name)
        planned = export.write(network, optimizer, x=x, batch=batch, out=tmp_path)
        program = compilers.link(tmp_path, "zig", "cortex-m4")
        device = Device(program, planned.total, count=True)
        numbers = device.put(x.m.numpy().tobytes())
        labels = device.put(y.to(torch.uint8).numpy().tobytes())
        device.call("drive", device.arena, numbers, labels, len(y), 2, 20_000, 0, 1, 0)
        assert sum(device.by_function().values()) == device.instructions()
        counts.append(device.instructions())
    assert counts[0] == counts[1] > 100_000
