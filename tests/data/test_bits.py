"""Every data set is the same bits on every processor: committed checksums, and instruction sets."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ezo import catalogue
from ezo.data import _images
from ezo.data._files import data_root

CHECKSUMS = json.loads(Path(__file__).with_name("checksums.json").read_text())
MADE = [name for name in CHECKSUMS if "mnist" not in name]
READ = [name for name in CHECKSUMS if "mnist" in name]
PROGRAM = """
import sys
import torch
from ezo import catalogue
torch.set_num_threads(1)
for name in sys.argv[1:]:
    data = catalogue.find("data", name).load(name)
    x = data.train_x[:64]
    turned = data.augment(x, torch.Generator().manual_seed(1)) if data.augment else x
    print(data.checksum, turned.double().sum().item())
"""


@pytest.mark.parametrize("name", READ)
def test_files_that_are_read_and_turned_have_the_committed_checksum(name):
    folder = "FashionMNIST" if name.startswith("fashion") else "MNIST"
    if not (data_root(None) / folder).is_dir():
        pytest.skip(f"needs the files of {name} in EZO_DATA")
    assert catalogue.find("data", name).load(name).checksum == CHECKSUMS[name]


def test_the_bits_don_t_depend_on_the_instruction_set():
    """Those that are made here have the committed checksum under each; batches are augmented."""
    found = {}
    more = torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
    for capability in ("default", "avx2", *([""] if more else [])):  # "": what this processor has
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *MADE],
            capture_output=True,
            text=True,
            env={**os.environ, **({"ATEN_CPU_CAPABILITY": capability} if capability else {})},
        )
        assert done.returncode == 0, done.stderr
        found[capability] = [line.split() for line in done.stdout.splitlines()]
        checksums = dict(zip(MADE, (checksum for checksum, _ in found[capability]), strict=True))
        assert checksums == {name: CHECKSUMS[name] for name in MADE}, capability
    assert all(of == found["avx2"] for of in found.values())


@pytest.mark.parametrize("degrees", [0, 30, 90, 211])
def test_a_turn_is_bilinear_interpolation(degrees):
    """Against the definition in float64, pixel by pixel."""
    image = np.random.default_rng(0).integers(0, 256, (9, 9))
    angle, middle = np.radians(degrees), 4.0
    expected = np.zeros((9, 9))
    for y in range(9):
        for x in range(9):
            right, up = x - middle, middle - y
            column = np.cos(angle) * right + np.sin(angle) * up + middle
            row = middle - (np.cos(angle) * up - np.sin(angle) * right)
            for i in range(9):
                for j in range(9):
                    weight = max(0, 1 - abs(row - i)) * max(0, 1 - abs(column - j))
                    expected[y, x] += weight * image[i, j]
    found = _images.rotate(torch.from_numpy(image)[None], degrees)[0].numpy()
    np.testing.assert_allclose(found, expected, atol=255 * 3 * 2.0**-16)
    steps = found * 2.0**32
    assert (steps == steps.round()).all()


def test_enlarging_is_torch_s_bilinear_interpolation():
    images = torch.from_numpy(np.random.default_rng(1).integers(0, 17, (3, 8, 8)))
    expected = torch.nn.functional.interpolate(
        images.double()[None], size=(28, 28), mode="bilinear", align_corners=False
    )[0]
    found = _images.enlarge(images, 28).double() / (2 * 28) ** 2
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
