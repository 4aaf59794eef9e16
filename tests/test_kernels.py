"""The choice of a backend: by name, by tensors, and by lying in the folder."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import ezo
from ezo import kernels, perturb
from ezo.int8 import ops
from ezo.kernels import After, Layer, Shown, compiled, reference
from ezo.noise import NOISES
from tests.backends import ISAS, PATHS, on

TRAIN = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
sys.path.insert(0, sys.argv[1])
import torch
import ezo
from ezo import kernels
from ezo.checkpoint import digest
from ezo.int8 import ElasticZO as Integers, Loss, from_float, quantize
from ezo.models import lenet5
assert ezo.__file__.startswith(sys.argv[1]), ezo.__file__


def digests():
    torch.manual_seed(0)
    x, y = torch.randn(4, 1, 28, 28), torch.arange(4)
    model = lenet5.build("lenet5")
    network, batch = from_float(model, headroom=15), quantize(x)
    optimizer = ezo.ElasticZO(model, 1)
    integers = Integers(network, 2, fraction=True, bp_gradient="mean")
    for _ in range(2):
        optimizer.step(lambda: torch.nn.functional.cross_entropy(model(x), y))
        integers.step(lambda: Loss(network(batch), y))
    return digest(model.state_dict()), digest(network.state_dict())


with kernels.using("reference"):
    wanted = digests()
with kernels.using("mine"):
    assert kernels.serving() == "mine"
    assert digests() == wanted
if kernels.serving() != "mine":  # as where there are compiled ones
    assert digests() == wanted
"""


def test_a_file_in_the_folder_is_a_backend(tmp_path: Path) -> None:
    shutil.copytree(Path(ezo.__file__).parent, tmp_path / "ezo")
    if compiled._kernels is not None:
        shutil.copy2(compiled._kernels.__file__, tmp_path / "ezo")
    shutil.copy2(reference.__file__, tmp_path / "ezo/kernels/mine.py")
    subprocess.run([sys.executable, "-c", TRAIN, tmp_path], check=True, timeout=300)


def test_an_unknown_backend_is_named_with_the_known_ones() -> None:
    with pytest.raises(
        ValueError, match="unknown backend 'none'; known: compiled, reference, triton"
    ):
        kernels.using("none")


@pytest.mark.parametrize("path", PATHS)
def test_a_choice_ends_with_its_block_and_names_what_serves(path: str) -> None:
    before = kernels.serving()
    with on(path), on("reference"):
        assert kernels.serving() == perturb.kernels() == "reference"
    with on(path):
        assert kernels.serving() == path
    assert kernels.serving() == before == (ISAS or ["reference"])[0]


class Picky:
    """Takes nothing but the number 1, and counts what it was asked."""

    name = "picky"

    def __init__(self) -> None:
        self.asked = 0

    def flatten(self, x: torch.Tensor) -> object:
        self.asked += 1
        return x if x.numel() == 1 else NotImplemented


def test_what_a_backend_lacks_or_refuses_the_next_one_serves() -> None:
    picky = Picky()
    one, more = torch.ones(1, 1, 1, 1), torch.ones(2, 3, 4)
    layer = Layer(torch.ones(2, 3).char())
    with kernels.using(picky):
        assert kernels.flatten(one) is one
        assert kernels.flatten(more).shape == (2, 12)
        assert kernels.accumulators(torch.ones(4, 3).char(), layer).eq(3).all()
        assert kernels.words((1, 2, 3), 5, torch.device("cpu")).shape == (5,)
    assert picky.asked == 2


def test_every_operation_of_the_room_is_the_reference_s() -> None:
    """``ezo.kernels`` has a function for each thing that its last backend can do, and says what."""
    operations = {name for name in vars(reference.Backend) if not name.startswith("_")}
    for name in operations - {"name", "simulated", "bits", "pieces"}:
        assert getattr(kernels, name).__doc__, name


def test_the_seam_of_the_batch_s_shift_is_where_every_backend_decides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if another part of the batch held a larger number: all requantize by its shift."""
    x = torch.full((4, 6), 100, dtype=torch.int8)
    layer = Layer(torch.full((5, 6), 100, dtype=torch.int8))
    err, where = torch.ones(4, 5, dtype=torch.int8), torch.zeros(4, 5, dtype=torch.int32)
    for file in (compiled, reference):
        monkeypatch.setattr(file, "batch_shift", lambda bits: 14)
    for path in PATHS:
        with on(path):
            m, s, _ = kernels.product(x, layer, After(), 0)
            assert s == 14 and m.eq((60_000 + (1 << 13)) >> 14).all()
            for at in (None, where):
                assert kernels.error(err, layer, 0, at, 1)[1] == 14


SHAPES = [(32, 120, 784), (32, 10, 84), (5, 7, 3), (1, 1, 1), (33, 65, 97), (17, 3, 130)]


@pytest.mark.parametrize("noise", NOISES)
@pytest.mark.parametrize(("rows", "units", "inputs"), SHAPES)
@pytest.mark.parametrize("whole", [True, False])
def test_noise_on_outputs_and_what_it_teaches_are_the_same_bits(
    noise: str, rows: int, units: int, inputs: int, whole: bool
) -> None:
    """With a bias and a ReLU, and without both; within rounding of the formulas in float64."""
    generator = torch.Generator().manual_seed(rows)
    x, y = torch.randn(rows, inputs, generator=generator), torch.randn(rows, units)
    scale, rate = torch.randn(rows, generator=generator) / 10, 0.3
    start = torch.randn(units, generator=generator)
    drawn, found = (noise, 3, (5, 7, 1 << 31)), []
    for path in PATHS:
        with on(path):
            shifted, bias = y.clone(), start.clone() if whole else None
            above = kernels.output_shift(shifted, drawn, -0.1, whole)
            e = kernels.output_errors(Shown(x, above, scale), units, bias, drawn, rate)
            found.append((shifted, above, e, bias))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert a is b is None or torch.equal(a, b)
    shifted, above, e, bias = found[0]
    z = torch.empty(rows, units)
    kernels.fill(z, *drawn)
    torch.testing.assert_close(shifted, y - 0.1 * z)
    wanted = (z * scale[:, None]).double()
    if whole:
        assert torch.equal(above, shifted > 0)
        total = (wanted := wanted * above).sum(0)
        wanted = wanted - wanted.mean(0)
        moved = rate * (total - wanted.mT @ (x.double() @ x.double().mean(0)))
        torch.testing.assert_close(bias.double(), start - moved, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(e.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("path", PATHS)
def test_a_layer_alone_is_what_torch_computes(path: str) -> None:
    x = torch.randint(-127, 128, (3, 4, 6, 6), generator=torch.Generator().manual_seed(1)).char()
    weight = torch.randint(-127, 128, (5, 4, 3, 3), generator=torch.Generator().manual_seed(2))
    bias = torch.arange(5).char()
    wanted = nn.functional.conv2d(x.double(), weight.double(), bias.double() * 8, padding=1)
    with on(path):
        found = kernels.accumulators(x, Layer(weight.char(), bias, 3, 1))
    assert found.dtype == torch.int32 and torch.equal(found.double(), wanted)


def test_the_reference_s_shapes_need_no_numbers() -> None:
    assert ops._int_mm_is_exact() in (True, False)
    played = reference.Backend().simulated(lambda _: None)
    assert played.bits(torch.zeros(3, dtype=torch.int32)) == 14
    assert list(played.pieces(10, 2, 1)) == [(0, 2), (2, 4)]
    assert list(reference.Backend().pieces(5, 2, 1)) == [(0, 2), (2, 4), (4, 5)]
