"""MNIST's files: read, checked, scaled and rotated."""

import gzip
import hashlib
import http.server
import os
import struct
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from ezo.catalogue import find
from ezo.data import mnist

COUNTS = {"train": 30, "t10k": 12}


def write(folder: Path, part: str, images: np.ndarray, labels: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path, array in zip(mnist._paths(folder, part), (images, labels), strict=True):
        header = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape)
        path.write_bytes(header + array.astype(np.uint8).tobytes())


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Small files of random images in both folders."""
    monkeypatch.setattr(mnist, "IMAGES", COUNTS)
    random = np.random.default_rng(0)
    for folder in ("MNIST", "FashionMNIST"):
        for part, n in COUNTS.items():
            images = np.zeros((n, 28, 28), np.uint8)
            images[:, 8:20, 8:20] = random.integers(0, 256, (n, 12, 12))
            write(tmp_path / folder / "raw", part, images, np.arange(n) % 10)
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    """Makes torchvision's downloads fail at once."""

    def fail(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(mnist.import_torchvision().datasets.MNIST, "download", fail)


def read(path: Path) -> np.ndarray:
    return np.frombuffer(path.read_bytes(), np.uint8, offset=16).reshape(-1, 1, 28, 28)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_images_are_the_files_scaled(root, name):
    data = mnist.load(name, root)
    folder = root / {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}[name] / "raw"
    train = read(folder / "train-images-idx3-ubyte").astype(np.float64)
    test = read(folder / "t10k-images-idx3-ubyte").astype(np.float64)
    for x, raw in ((data.train_x, train), (data.test_x, test)):
        np.testing.assert_allclose(x.numpy(), (raw - train.mean()) / train.std(), atol=1e-6)
        assert x.dtype == torch.float32
    assert data.train_y.tolist() == [n % 10 for n in range(30)]
    assert data.test_y.tolist() == [n % 10 for n in range(12)]
    assert data.train_y.dtype == torch.int64 and data.classes == 10 and data.augment is None


def test_the_environment_names_the_folder(root, monkeypatch):
    monkeypatch.setenv("EZO_DATA", str(root))
    assert mnist.load("mnist").checksum == mnist.load("mnist", root).checksum


def test_gzipped_files_are_the_same_data(root):
    plain = mnist.load("mnist", root).checksum
    for path in (root / "MNIST/raw").iterdir():
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert mnist.load("mnist", root).checksum == plain


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("degrees", [90, 180, 270])
def test_right_angles_turn_counter_clockwise(root, name, degrees):
    plain, turned = mnist.load(name, root), mnist.load(f"{name}-rot{degrees}", root)
    for one, other in ((plain.train_x, turned.train_x), (plain.test_x, turned.test_x)):
        torch.testing.assert_close(other, one.rot90(degrees // 90, (2, 3)), atol=1e-3, rtol=0)
    assert torch.equal(plain.train_y, turned.train_y)


def test_whole_turns_change_nothing(root):
    plain = mnist.load("mnist", root).checksum
    assert mnist.load("mnist-rot0", root).checksum == plain
    assert mnist.load("mnist-rot360", root).checksum == plain


def test_any_angle_interpolates_and_keeps_the_scale(root):
    """Against bilinear interpolation written out, at a pixel inside and one in a corner."""
    data = mnist.load("mnist-rot30", root)
    plain = mnist.load("mnist", root)
    x, black = plain.train_x[0, 0].double(), plain.train_x.min()
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    for row, column in ((11, 15), (13, 12), (0, 0)):
        right, up = column - 13.5, 13.5 - row
        source_column, source_row = cos * right + sin * up + 13.5, 13.5 - (cos * up - sin * right)
        i, j = int(np.floor(source_row)), int(np.floor(source_column))
        expected = black.double()
        if 0 <= i < 27 and 0 <= j < 27:
            a, b = source_row - i, source_column - j
            expected = (1 - a) * ((1 - b) * x[i, j] + b * x[i, j + 1]) + a * (
                (1 - b) * x[i + 1, j] + b * x[i + 1, j + 1]
            )
        assert data.train_x[0, 0, row, column].item() == pytest.approx(expected.item(), abs=1e-4)


def test_names_are_found_in_the_catalogue():
    for name in ("mnist", "fashion-mnist", "mnist-rot45", "fashion-mnist-rot30"):
        assert find("data", name) is mnist
    with pytest.raises(ValueError, match="unknown data"):
        find("data", "mnist-rot")


def test_missing_files_are_listed_where_they_belong(root, offline):
    (root / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        mnist.load("mnist", root)
    message = str(caught.value)
    for part in (
        "expected t10k-labels-idx1-ubyte in",
        str(root / "MNIST/raw"),
        "no network",
        "--data-root",
        "EZO_DATA",
    ):
        assert part in message
    assert "train-images" not in message


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "MNIST").write_text("in the way")
    with pytest.raises(FileNotFoundError, match=r"expected train-images-idx3-ubyte, .*by hand"):
        mnist.load("mnist", tmp_path)


def test_missing_files_are_downloaded(root, monkeypatch):
    """By torchvision, from a mirror of our own that holds the files."""
    datasets = mnist.import_torchvision().datasets
    plain = mnist.load("mnist", root).checksum
    pages = {}
    for path in (root / "MNIST/raw").iterdir():
        pages[f"/{path.name}.gz"] = gzip.compress(path.read_bytes())
        path.unlink()

    class Mirror(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(pages[self.path])))
            self.end_headers()
            self.wfile.write(pages[self.path])

        def log_message(self, *words):
            pass

    resources = [(name[1:], hashlib.md5(page).hexdigest()) for name, page in pages.items()]
    monkeypatch.setattr(datasets.MNIST, "resources", resources)
    with http.server.HTTPServer(("127.0.0.1", 0), Mirror) as server:
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            assert mnist.load("mnist", root).checksum == plain
        finally:
            server.shutdown()
            thread.join()


def test_present_files_need_no_torchvision(root, monkeypatch):
    def refuse():
        raise AssertionError("imported torchvision")

    monkeypatch.setattr(mnist, "import_torchvision", refuse)
    mnist.load("mnist", root)


@pytest.mark.parametrize(
    ("file", "at", "value", "message"),
    [
        ("train-images-idx3-ubyte", 3, 1, "magic number 0x00000803.*got 0x00000801"),
        ("train-images-idx3-ubyte", 7, 29, r"shape \(30, 28, 28\), got \(29, 28, 28\)"),
        ("train-images-idx3-ubyte", None, None, "23520 bytes after the header, got 23519"),
        ("t10k-labels-idx1-ubyte", 7, 13, r"shape \(12,\), got \(13,\)"),
        ("t10k-labels-idx1-ubyte", 8 + 5, 10, "labels 0 to 9, got 10 at 5"),
        ("train-labels-idx1-ubyte", 8, 255, "labels 0 to 9, got 255 at 0"),
    ],
)
def test_a_damaged_file_is_named_with_its_fix(root, file, at, value, message):
    path = root / "MNIST/raw" / file
    data = bytearray(path.read_bytes())
    if at is None:
        del data[-1]
    else:
        data[at] = value
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"{file}: expected .*{message}.*EZO_DATA"):
        mnist.load("mnist", root)


def test_blank_images_are_refused(root):
    write(root / "MNIST/raw", "train", np.full((30, 28, 28), 7), np.zeros(30))
    with pytest.raises(ValueError, match="train-images-idx3-ubyte: expected images, got 7"):
        mnist.load("mnist", root)


def test_a_subset_is_not_mnist(root, monkeypatch):
    monkeypatch.setattr(mnist, "IMAGES", {"train": 60_000, "t10k": 10_000})
    with pytest.raises(ValueError, match=r"shape \(60000, 28, 28\), got \(30, 28, 28\)"):
        mnist.load("mnist", root)


@pytest.mark.skipif(
    not Path(os.environ.get("EZO_DATA", ""), "MNIST/raw").is_dir(),
    reason="EZO_DATA names no folder with MNIST",
)
def test_the_true_mnist():
    data = mnist.load("mnist")
    assert data.train_x.shape == (60_000, 1, 28, 28) and data.test_x.shape == (10_000, 1, 28, 28)
    assert torch.bincount(data.test_y).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]
    # The well-known mean 0.1307 and deviation 0.3081 of pixels in 0 to 1.
    assert data.train_x.min().item() == pytest.approx(-0.1307 / 0.3081, abs=1e-3)
    assert data.train_x.max().item() == pytest.approx((1 - 0.1307) / 0.3081, abs=1e-3)
