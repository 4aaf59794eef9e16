"""What tests/test_docs.py cannot do for docs/export.md: its C compiles, its export is emulated."""

import re
import subprocess
from pathlib import Path

import pytest

from bench.mcu.__main__ import _emulate
from bench.mcu.native import host

GUIDE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
YOURS = """#include <stdint.h>
extern const int8_t my_data[];
extern const uint8_t my_labels[];
#define MY_EXAMPLES 100u
void feed_the_watchdog(void);
void fail(void);
void learn(void);
uint32_t classify(const int8_t *x);
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
    source = [*host(), "-std=c99", "-Wall", "-Werror", "-Idevice/src", "-c", main, "-o", "x.o"]
    assert subprocess.run(source).returncode == 0
    assert _emulate(tmp_path / "device") == 0
    assert "Python's bits" in capsys.readouterr().out


def test_emulate_wants_an_export(tmp_path):
    with pytest.raises(SystemExit, match="a folder that `ezo export` wrote"):
        _emulate(tmp_path)
