"""What tests/test_docs.py cannot do for docs/export.md: its C compiles, its export is emulated."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from bench.mcu.exported import emulate, qemu
from bench.mcu.native import host
from ezo import export
from ezo.export.write import digest
from tests.export.networks import data, make, train

GUIDE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
YOURS = """#include <stdint.h>
void feed_the_watchdog(void);
void fail(void);
void learn(void);
uint32_t classify(const int8_t *x);
"""

EXAMPLES = """#include <stdint.h>
extern const int8_t my_data[];
extern const uint8_t my_labels[];
#define MY_EXAMPLES 100u
"""


def _blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def test_from_python_to_a_running_emulator(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in _blocks("python"):
        exec(block, names)
    main = tmp_path / "device" / "firmware.c"
    main.write_text(YOURS + _blocks("c")[0])
    examples = tmp_path / "device" / "src" / "examples.h"  # as --examples writes it
    examples.write_text(EXAMPLES)
    source = [*host(), "-std=c99", "-Wall", "-Werror", "-Idevice/src", "-c", main, "-o", "x.o"]
    assert subprocess.run(source).returncode == 0
    assert emulate(tmp_path / "device") == 0
    assert "Python's bits" in capsys.readouterr().out


def test_emulate_wants_an_export(tmp_path):
    with pytest.raises(ValueError, match="a folder that `ezo export` wrote"):
        emulate(tmp_path)


def test_what_an_emulated_device_learnt_goes_on_in_python(tmp_path, capsys):
    name, bp, options = "mlp", 1, {"rate": 9_000, "mu": 3}
    (network, optimizer), (x, y) = make(name, bp, **options), data(name)
    export.write(network, optimizer, x=x, batch=8, out=tmp_path / "device")
    files = tmp_path / "data.bin", tmp_path / "labels.bin", tmp_path / "state.bin"
    x.m.numpy().tofile(files[0])
    y.to(torch.uint8).numpy().tofile(files[1])
    assert emulate(tmp_path / "device", files[0], files[1], 5, files[2]) == 0
    assert "5 steps" in capsys.readouterr().out
    list(train(network, optimizer, x, y, 5, 8))
    back, after = make(name, bp, **options)
    export.load(files[2], back, after, x)
    assert digest(after) == digest(optimizer)
    for given, message in (
        ((files[0],), "expected --labels beside --data"),
        ((files[0], files[0]), "64 bytes of .* for each byte of"),
        ((None, None, 5), "expected --data and --labels"),
    ):
        with pytest.raises(ValueError, match=message):
            emulate(tmp_path / "device", *given)
    (y + 9).to(torch.uint8).numpy().tofile(files[1])
    with pytest.raises(ValueError, match="labels of 0 to 9"):
        emulate(tmp_path / "device", files[0], files[1])


QEMU = shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-system-arm")


@pytest.mark.skipif(not QEMU, reason="needs gcc-arm-none-eabi and qemu-system-arm")
def test_main_runs_under_qemu(tmp_path, capsys):
    network, optimizer = make("mlp", 1, rate=9_000, mu=3)
    export.write(network, optimizer, x=data("mlp")[0], batch=8, out=tmp_path)
    assert qemu(tmp_path, "microbit") == 0
    assert "main returned 0 on nRF51822, 16,384 bytes" in capsys.readouterr().out
    mine = tmp_path / "mine.c"
    mine.write_text("int main(void) { return 7; }\n")
    assert qemu(tmp_path, "microbit", mine) == 7
    mine.write_text("char big[20000]; int main(void) { return big[0]; }\n")
    with pytest.raises(ValueError, match="RAM is 16,384 bytes"):
        qemu(tmp_path, "microbit", mine)
    with pytest.raises(ValueError, match="a C file with main"):
        qemu(tmp_path, "microbit", tmp_path / "none.c")


def test_qemu_wants_a_part_that_it_knows(tmp_path):
    network, optimizer = make("odd", 1)
    export.write(network, optimizer, x=data("odd")[0], out=tmp_path)
    with pytest.raises(ValueError, match="expected --board, one of nrf52840dk, .*, got pico"):
        qemu(tmp_path, "pico")
