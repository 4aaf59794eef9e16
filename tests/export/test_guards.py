"""What test_emulated.py relies on is seen: memory beyond an edge, a deep stack, a call."""

import importlib

import pytest

from bench.mcu import compilers
from bench.mcu.elf import Elf
from bench.mcu.emulator import FILL, Device
from ezo import export
from tests.export.networks import data, make
from tests.export.test_emulated import STACK_BYTES

MORE = """#include <stdint.h>
int puts(const char *text);
int deep(int n);
int deep(int n) {
  volatile uint8_t room[3000];
  for (int i = 0; i < 3000; ++i) room[i] = (uint8_t)n;
  return room[n];
}
"""


def _exported(folder):
    network, optimizer = make("odd", 1)
    planned = export.write(network, optimizer, x=data("odd")[0], batch=3, out=folder)
    assert planned.total % 4096  # else there is no room before it
    return planned, folder / "src" / "ezo_model.c"


def _moved(folder, name, place):
    """A device whose buffer lies elsewhere than the plan says, after a step."""
    planned, model = _exported(folder)
    text = model.read_text()
    at = text.index(f".{name} = ")
    model.write_text(text[:at] + f".{name} = {place}" + text[text.index(",", at) :])
    device = Device(compilers.link(folder, "zig", "cortex-m4"), planned.total)
    x = device.put(bytes(13 * 3))
    device.call("drive", device.arena, x, device.put(bytes(3)), 3, 1, 60_000, 3, 1, 0)
    return device


def test_what_is_written_before_the_arena_is_seen(tmp_path):
    assert set(_moved(tmp_path, "moves_at", "-16").before_arena()) > {FILL}


def test_what_reaches_behind_the_arena_faults(tmp_path):
    unicorn = importlib.import_module("unicorn")
    with pytest.raises(unicorn.UcError):
        _moved(tmp_path, "moves_at", "EZO_ARENA_BYTES")


def test_a_deep_stack_is_seen(tmp_path):
    planned, model = _exported(tmp_path)
    (model.parent / "more.c").write_text(MORE)
    device = Device(compilers.link(tmp_path, "zig", "cortex-m4"), planned.total)
    assert device.stack_bytes() == 0
    device.call("deep", 7)
    assert device.stack_bytes() > 3000 > STACK_BYTES


@pytest.mark.parametrize("called", [False, True])
def test_a_librarys_call_is_seen(called, tmp_path):
    _, model = _exported(tmp_path)
    if called:
        more = MORE.replace("return room", "puts(0);\n  return room")
        (model.parent / "more.c").write_text(more)
    files = [Elf(path) for path in compilers.objects(tmp_path, "zig", "cortex-m4")]
    assert ("puts" in set().union(*(file.undefined() for file in files))) == called
