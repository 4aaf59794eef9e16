"""torchvision is imported whole or broken, and its absence is explained."""

import sys

import pytest
import torch

from ezo.data import _vision

BROKEN = """
import torchvision.part
from pathlib import Path
if not Path(__file__).with_name("declared").exists():
    torchvision.part.stale = True
    raise RuntimeError("operator torchvision::nms does not exist")
"""


@pytest.fixture
def package(monkeypatch, tmp_path):
    """Writes a torchvision of our own, which hides the true one during a test."""
    true = {
        name: sys.modules.pop(name)
        for name in list(sys.modules)
        if name.partition(".")[0] == "torchvision"
    }
    folder = tmp_path / "torchvision"
    folder.mkdir()
    (folder / "part.py").write_text("stale = False")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    sys.modules.update(true)


def refuse():
    raise AssertionError("declared operators")


def test_the_installed_torchvision_works():
    torchvision = _vision.import_torchvision()
    assert _vision.import_torchvision() is torchvision
    assert issubclass(torchvision.datasets.FashionMNIST, torchvision.datasets.MNIST)
    image = torch.arange(4.0).reshape(1, 2, 2)
    assert torch.equal(torchvision.transforms.functional.hflip(image), image.flip(2))
    assert callable(torchvision.models.resnet18)


def test_a_whole_torchvision_is_left_alone(monkeypatch, package):
    (package / "__init__.py").write_text("import torchvision.part")
    monkeypatch.setattr(_vision, "_declare", refuse)
    assert _vision.import_torchvision().part.stale is False


def test_a_broken_torchvision_is_imported_anew(monkeypatch, package):
    (package / "__init__.py").write_text(BROKEN)
    monkeypatch.setattr(_vision, "_declare", (package / "declared").touch)
    with pytest.raises(RuntimeError, match="nms"):
        __import__("torchvision")
    assert _vision.import_torchvision().part.stale is False


def test_other_errors_pass(monkeypatch, package):
    (package / "__init__.py").write_text("raise RuntimeError('something else')")
    monkeypatch.setattr(_vision, "_declare", refuse)
    with pytest.raises(RuntimeError, match="something else"):
        _vision.import_torchvision()


def test_absence_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(ModuleNotFoundError, match=r"'torchvision'.*pip install -e '\.\[train\]'"):
        _vision.import_torchvision()
