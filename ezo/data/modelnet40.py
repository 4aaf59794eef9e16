"""ModelNet40, clouds of points on 12,308 CAD models in 40 classes, in its HDF5 form."""

import functools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ezo.catalogue import number
from ezo.data._dataset import Dataset
from ezo.data._files import WHERE, BadFile, bad, data_root, download, extra, unzip
from ezo.data._points import augment
from ezo.files import remove

NAMES = ("modelnet40", "modelnet40-<points>")
ABOUT = {
    "modelnet40-<points>": "modelnet40 with so many points a cloud.",
}
FOLDER = "modelnet40_ply_hdf5_2048"
URL = f"https://shapenet.cs.stanford.edu/media/{FOLDER}.zip"
DIGEST = "md5:c9ab8e6dfb16f67afdab25e155c79e59"
CLOUDS = {"train": 9_840, "test": 2_468}
POINTS, LARGEST = 1024, 2048
CLASSES = 40
_UNPACK, _DAY = ".unpack-", 86_400  # seconds that nobody's download takes
_bad = functools.partial(bad, fix="delete its folder and load again to download all")
_OF_HDF5 = (  # what h5py raises of damaged files
    *(ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError),
    *(TypeError, ValueError),
)


def load(name: str, root: Path | None = None) -> Dataset:
    """Read ``root``/modelnet40_ply_hdf5_2048, which is downloaded where it is missing (435 MB).

    Clouds (N, P, 3) as published, of centroid 0 and radius 1 over their 2,048 points, augmented as
    in `ezo.data._points.augment`; P is the first 1,024, or 256 of ``modelnet40-256``.

    Raises:
        FileNotFoundError: files are missing and can't be downloaded.
        ValueError: a file is not what it should be, or the name asks for too few or many points.
        ModuleNotFoundError: h5py is not installed.
    """
    points = number(name) if name != "modelnet40" else POINTS
    if not 1 <= points <= LARGEST:
        raise ValueError(f"expected 1 to {LARGEST} points in a cloud, got '{name}'")
    folder = data_root(root) / FOLDER
    if not folder.is_dir():
        _download(folder)
    classes = len(_lines(folder / "shape_names.txt"))
    if classes != CLASSES:
        raise _bad(folder / "shape_names.txt", f"{CLASSES} names, one a line", str(classes))
    train_x, train_y = _read(folder, "train", points)
    test_x, test_y = _read(folder, "test", points)
    return Dataset(train_x, train_y, test_x, test_y, classes=CLASSES, augment=augment)


def _download(folder: Path) -> None:
    """Fetch, check and unpack; ``folder`` appears only whole."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for left in folder.parent.glob(f"{_UNPACK}*"):  # by a process that was killed
            if time.time() - left.stat().st_mtime > _DAY:
                remove(left)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=_UNPACK) as unpacked:
            archive = Path(unpacked) / f"{FOLDER}.zip"
            download(URL, archive, DIGEST)
            unzip(archive, Path(unpacked))
            (Path(unpacked) / FOLDER).rename(folder)
    except OSError as error:
        raise FileNotFoundError(
            f"expected the folder {folder} with shape_names.txt, train_files.txt, test_files.txt "
            f"and the .h5 files that they list; it is missing and could not be downloaded "
            f"({error}); unpack {URL} there by hand, or {WHERE}"
        ) from error


def _read(folder: Path, part: str, points: int) -> tuple[Tensor, Tensor]:
    """Clouds (N, P, 3) as float32 and labels (N,) as int64 of all files of a part."""
    # The lists give paths from the root of PointNet's repository; the files lie beside the lists.
    paths = [folder / Path(line).name for line in _lines(folder / f"{part}_files.txt")]
    parts = [_read_file(path, points) for path in paths]
    clouds = sum(len(labels) for _, labels in parts)
    if clouds != CLOUDS[part]:
        raise _bad(folder / f"{part}_files.txt", f"{CLOUDS[part]} clouds in its files", str(clouds))
    return (
        torch.from_numpy(np.concatenate([x for x, _ in parts])),
        torch.from_numpy(np.concatenate([y for _, y in parts])),
    )


def _read_file(path: Path, points: int) -> tuple[np.ndarray, np.ndarray]:
    h5py = extra("h5py")
    if not path.is_file():
        raise _missing(path)
    most = max(CLOUDS.values())
    try:
        with h5py.File(path, "r") as file:
            for key in ("data", "label"):
                # The format can also name other files, whose bytes are not ours to read.
                if (
                    not isinstance(file.get(key, getlink=True), h5py.HardLink)
                    or not isinstance(file[key], h5py.Dataset)
                    or file[key].is_virtual
                    or file[key].external
                ):
                    raise _bad(path, "the arrays 'data' and 'label'", str(sorted(file)))
            n = file["label"].shape[0] if file["label"].shape else 0
            if not 1 <= n <= most:
                raise _bad(path, f"1 to {most} clouds", str(n))
            for key, shape, kind in ("data", (n, LARGEST, 3), "f"), ("label", (n, 1), "iu"):
                if file[key].shape != shape or file[key].dtype.kind not in kind:
                    wanted = (
                        f"'{key}' of shape {shape}, of {'floats' if kind == 'f' else 'integers'}"
                    )
                    raise _bad(path, wanted, f"{file[key].shape}, {file[key].dtype}")
            with np.errstate(over="ignore"):  # infinity is refused below
                data = file["data"][:, :points].astype(np.float32)
            labels = file["label"][:, 0].astype(np.int64)
    except BadFile:
        raise
    except _OF_HDF5 as error:
        raise _bad(path, "a whole HDF5 file", str(error)) from error
    if not 0 <= labels.min() <= labels.max() < CLASSES:
        worst = labels.max() if labels.max() >= CLASSES else labels.min()
        raise _bad(path, f"labels 0 to {CLASSES - 1}", str(worst))
    if not np.isfinite(data).all():
        raise _bad(path, "finite coordinates", "NaN or infinity")
    return data, labels


def _lines(path: Path) -> list[str]:
    """Lines of a text file that are not blank."""
    try:
        return [*filter(None, map(str.strip, path.read_text(encoding="utf-8").splitlines()))]
    except FileNotFoundError:
        raise _missing(path) from None
    except UnicodeDecodeError as error:
        raise _bad(path, "text", str(error)) from error


def _missing(path: Path) -> FileNotFoundError:
    return FileNotFoundError(
        f"expected {path}, which is missing; delete its folder and load "
        f"again to download all, or {WHERE}"
    )
