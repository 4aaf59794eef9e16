"""ModelNet40's files, made small: read, checked, and downloaded whole or not at all."""

import hashlib
import sys
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from ezo.catalogue import find
from ezo.data import modelnet40

FILES = {"train": (3, 2), "test": (4,)}  # clouds in each file


def clouds(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 2048, 3)).astype(np.float32)


def write(path: Path, data: np.ndarray, label: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, label


def fill(folder: Path) -> None:
    folder.mkdir()
    (folder / "shape_names.txt").write_text("".join(f"shape{n}\n" for n in range(40)))
    for part, sizes in FILES.items():
        names = [f"ply_data_{part}{i}.h5" for i in range(len(sizes))]
        (folder / f"{part}_files.txt").write_text(
            "".join(f"data/modelnet40_ply_hdf5_2048/{name}\n" for name in names)
        )
        for i, (name, n) in enumerate(zip(names, sizes, strict=True)):
            labels = (np.arange(n, dtype=np.uint8) + 36 + i)[:, None] % 40
            write(folder / name, clouds(n, i + 10 * (part == "test")), labels)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(modelnet40, "CLOUDS", {part: sum(n) for part, n in FILES.items()})
    fill(tmp_path / modelnet40.FOLDER)
    return tmp_path


def test_clouds_and_labels_are_the_files(root):
    data = modelnet40.load("modelnet40-100", root)
    expected = np.concatenate([clouds(3, 0), clouds(2, 1)])[:, :100]
    np.testing.assert_array_equal(data.train_x.numpy(), expected)
    np.testing.assert_array_equal(data.test_x.numpy(), clouds(4, 10)[:, :100])
    assert data.train_x.dtype == torch.float32 and data.train_y.dtype == torch.int64
    assert data.train_y.tolist() == [36, 37, 38, 37, 38]
    assert data.test_y.tolist() == [36, 37, 38, 39]
    assert data.classes == 40
    moved = data.augment(data.train_x, torch.Generator().manual_seed(0))
    assert moved.shape == data.train_x.shape and not torch.equal(moved, data.train_x)


def test_names_and_numbers_of_points(root):
    plain = modelnet40.load("modelnet40", root)
    assert plain.train_x.shape == (5, 1024, 3)
    assert modelnet40.load("modelnet40-1024", root).checksum == plain.checksum
    assert modelnet40.load("modelnet40-2048", root).test_x.shape == (4, 2048, 3)
    assert find("data", "modelnet40") is find("data", "modelnet40-256") is modelnet40
    for name in ("modelnet40-0", "modelnet40-2049"):
        with pytest.raises(ValueError, match=f"1 to 2048 points in a cloud, got '{name}'"):
            modelnet40.load(name, root)


def bad_label(path):
    write(path, clouds(4, 0), np.array([[0], [1], [40], [2]], np.uint8))


def negative_label(path):
    write(path, clouds(4, 0), np.array([[0], [-1], [1], [2]], np.int64))


def flat_label(path):
    write(path, clouds(4, 0), np.zeros(4, np.uint8))


def few_points(path):
    write(path, clouds(4, 0)[:, :2000], np.zeros((4, 1), np.uint8))


def fewer_clouds_than_labels(path):
    write(path, clouds(3, 0), np.zeros((4, 1), np.uint8))


def whole_numbers(path):
    write(path, clouds(4, 0).astype(np.int32), np.zeros((4, 1), np.uint8))


def not_a_number(path):
    data = clouds(4, 0)
    data[1, 2, 0] = np.nan
    write(path, data, np.zeros((4, 1), np.uint8))


def no_label(path):
    with h5py.File(path, "w") as file:
        file["data"] = clouds(4, 0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def text(path):
    path.write_text("not found")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (bad_label, "labels 0 to 39, got 40"),
        (negative_label, "labels 0 to 39, got -1"),
        (flat_label, r"'label' of shape \(4, 1\), of integers, got \(4,\), uint8"),
        (few_points, r"'data' of shape \(4, 2048, 3\), of floats, got \(4, 2000, 3\), float32"),
        (fewer_clouds_than_labels, r"'data' of shape \(4, 2048, 3\).*got \(3, 2048, 3\)"),
        (whole_numbers, "of floats, got .*int32"),
        (not_a_number, "finite coordinates"),
        (no_label, r"the arrays 'data' and 'label', got \['data'\]"),
        (cut, "a whole HDF5 file"),
        (text, "a whole HDF5 file"),
    ],
)
def test_a_damaged_file_is_named_with_its_fix(root, damage, message):
    damage(root / modelnet40.FOLDER / "ply_data_test0.h5")
    with pytest.raises(ValueError, match=rf"ply_data_test0\.h5: expected .*{message}.*EZO_DATA"):
        modelnet40.load("modelnet40", root)


@pytest.mark.parametrize("name", ["shape_names.txt", "train_files.txt", "ply_data_train1.h5"])
def test_a_missing_file_is_named_with_its_fix(root, name):
    (root / modelnet40.FOLDER / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"expected .*{name}, which is missing.*EZO_DATA"):
        modelnet40.load("modelnet40", root)


def test_wrong_counts_are_refused(root, monkeypatch):
    (root / modelnet40.FOLDER / "train_files.txt").write_text("ply_data_train0.h5\n")
    with pytest.raises(ValueError, match=r"train_files\.txt: expected 5 clouds .*, got 3"):
        modelnet40.load("modelnet40", root)
    (root / modelnet40.FOLDER / "shape_names.txt").write_text("chair\n")
    with pytest.raises(ValueError, match=r"shape_names\.txt: expected 40 names, one a line, got 1"):
        modelnet40.load("modelnet40", root)


def serve(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Zip the folder away and let the address be the zip file's."""
    archive = tmp_path / "served.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((root / modelnet40.FOLDER).iterdir()):
            file.write(path, f"{modelnet40.FOLDER}/{path.name}")
    monkeypatch.setattr(modelnet40, "URL", archive.as_uri())
    monkeypatch.setattr(
        modelnet40, "DIGEST", f"md5:{hashlib.md5(archive.read_bytes()).hexdigest()}"
    )
    return archive


def test_a_missing_folder_is_downloaded(root, tmp_path, monkeypatch):
    serve(root, tmp_path, monkeypatch)
    fresh = tmp_path / "fresh" / "data"
    assert (
        modelnet40.load("modelnet40", fresh).checksum
        == modelnet40.load("modelnet40", root).checksum
    )
    assert [path.name for path in fresh.iterdir()] == [modelnet40.FOLDER]


def test_a_forged_archive_is_not_unpacked(root, tmp_path, monkeypatch):
    archive = serve(root, tmp_path, monkeypatch)
    archive.write_bytes(archive.read_bytes() + b"x")
    with pytest.raises(ValueError, match=r"served\.zip: expected a file of md5:.*got md5:"):
        modelnet40.load("modelnet40", tmp_path / "fresh")
    assert list((tmp_path / "fresh").iterdir()) == []


def test_without_network_the_error_says_what_belongs_where(tmp_path, monkeypatch):
    monkeypatch.setattr(modelnet40, "URL", (tmp_path / "absent.zip").as_uri())
    with pytest.raises(FileNotFoundError) as caught:
        modelnet40.load("modelnet40", tmp_path / "fresh")
    for part in (
        str(tmp_path / "fresh" / modelnet40.FOLDER),
        "train_files.txt",
        "absent.zip",
        "by hand",
        "--data-root",
        "EZO_DATA",
    ):
        assert part in str(caught.value)
    assert list((tmp_path / "fresh").iterdir()) == []


def test_without_h5py(root, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"'h5py'.*pip install -e '\.\[train\]'"):
        modelnet40.load("modelnet40", root)
