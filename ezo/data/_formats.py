"""Read the user's examples: a folder of images, arrays in a .npz, rows of a .csv. Runs no code."""

import csv
import lzma
import math
import warnings
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ezo.data._files import extra
from ezo.data._vision import import_torchvision

Array = np.ndarray[Any, Any]
LABEL = ("label", "class", "target", "y")  # names of a CSV's column of labels
TEST = ("test", "val", "valid", "validation")
FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # no file that another program draws
ARRAYS = "write numpy.savez(file, x=..., y=...), or train_x, train_y, test_x and test_y"


class Examples(NamedTuple):
    """Unscaled examples.

    Attributes:
        x: float32, (N, C, H, W), (N, P, 3) or (N, F).
        y: labels in words, or None.
        names: what each is called in a table of predictions.
    """

    x: Array
    y: list[str] | None
    names: Sequence[str]


Parts = dict[str, Examples]  # "train" and "test", or "all"


def read(path: Path, side: int | None = None, features: int | None = None) -> Parts:
    """The examples that lie there.

    Args:
        side: images are cut and scaled to so many pixels a side.
        features: rows of so many columns have no label.

    Raises:
        ValueError: it can't be read as examples; says why.
        OSError: it can't be read.
        ModuleNotFoundError: torchvision is not installed, for a folder.
    """
    if path.is_dir():
        return _folder(path, side)
    if side is not None:
        raise bad(path, "a folder of images before '@'", "none", "leave out @ and what follows")
    if not path.is_file():
        raise bad(path, "a folder or a file", "none", "say where it lies from here")
    if path.suffix.lower() not in (".npz", ".csv"):
        raise bad(
            path, "a folder, a .npz or a .csv", f"'{path.suffix}'", "write it as one of these"
        )
    return _arrays(path) if path.suffix.lower() == ".npz" else _rows(path, features)


def bad(path: Path, expected: str, got: str, fix: str) -> ValueError:
    """What is wrong with the user's data, and what to do."""
    return ValueError(f"{path}: expected {expected}, got {got}; {fix}")


# Arrays


def _arrays(path: Path) -> Parts:
    try:
        _expect_whole(path)
        with np.load(path, allow_pickle=False) as file:
            found = {_key(name): file[name] for name in file.files if _key(name) in _KEYS}
            names = ", ".join(file.files)
    except PermissionError:
        raise
    except _DAMAGED as error:
        raise bad(path, "arrays of numbers, or of words for y", str(error), ARRAYS) from error
    except MemoryError as error:
        raise bad(path, "arrays that fit the memory", str(error), "give fewer examples") from error
    parts = {part: (f"{part}_x", f"{part}_y") for part in ("train", "test")}
    parts |= {} if "train_x" in found or "test_x" in found else {"all": ("x", "y")}
    read = {
        part: Examples(_shaped(path, x, found[x]), _labels(path, y, found.get(y)), [])
        for part, (x, y) in parts.items()
        if x in found
    }
    if not read:
        raise bad(path, "an array x", names or "none", ARRAYS)
    for part, examples in read.items():
        n = len(examples.x)
        if examples.y is not None and len(examples.y) != n:
            got = f"{n} and {len(examples.y)} in {' and '.join(parts[part])}"
            raise bad(path, "as many labels as examples", got, "write both of the same examples")
        read[part] = examples._replace(names=[str(i) for i in range(n)])
    return read


_DAMAGED = (
    *(ValueError, EOFError, TypeError, KeyError, NotImplementedError, RuntimeError, OSError),
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)


def _expect_whole(path: Path) -> None:
    """That each array is as long as its header says, before memory for it is asked for.

    Raises:
        ValueError: one is not.
    """
    formats = np.lib.format
    readers = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}
    with path.open("rb") as handle, zipfile.ZipFile(handle) as file:
        for entry in file.infolist():
            if _key(entry.filename.removesuffix(".npy")) not in _KEYS:
                continue
            with file.open(entry) as array:
                version = formats.read_magic(array)
                if version not in readers:  # of structs with names that are no ASCII
                    raise ValueError(f"{entry.filename} of format {version}")
                shape, _, kind = readers[version](array)
                rest, size = entry.file_size - array.tell(), math.prod(shape) * kind.itemsize
            if not kind.hasobject and rest != size:
                raise ValueError(f"{entry.filename} of {rest:,} bytes, which says {size:,}")


_KEYS = {"x", "y", "train_x", "train_y", "test_x", "test_y"}


def _key(name: str) -> str:
    """Keras and others write x_train."""
    first, _, second = name.partition("_")
    return f"{second}_{first}" if first in ("x", "y") and second else name


def _shaped(path: Path, name: str, x: Array) -> Array:
    """(N, C, H, W) of images in any order of axes, (N, P, 3) of points, (N, F) of numbers."""
    if x.dtype.kind not in "buif":
        raise bad(path, f"numbers in {name}", str(x.dtype), ARRAYS)
    if x.ndim == 3 and x.shape[2] != 3:
        x = x[:, None]
    if x.ndim == 4 and x.shape[3] <= 4 < x.shape[1]:
        x = x.transpose(0, 3, 1, 2)
    if x.ndim not in (2, 3, 4) or 0 in x.shape:
        wanted = f"{name} (N, C, H, W) or (N, H, W) of images, (N, P, 3) of points, or (N, F)"
        raise bad(path, wanted, f"{x.shape}", "reshape it")
    with np.errstate(over="ignore"):  # which is no finite number then
        return finite(path, x.astype(np.float32))


def finite(path: Path, x: Array) -> Array:
    """The same array, which holds finite numbers alone."""
    if not np.isfinite(x).all():
        at = int(np.argwhere(~np.isfinite(x))[0][0])
        raise bad(path, "finite numbers", f"none in example {at}", "take it out, or fill it in")
    return x


def _labels(path: Path, name: str, y: Array | None) -> list[str] | None:
    if y is None:
        return None
    y = y.reshape(len(y)) if y.ndim == 2 and y.shape[1] == 1 else y
    if y.ndim != 1 or y.dtype.kind not in "buifU":
        got = f"{y.dtype} of shape {y.shape}"
        raise bad(path, f"{name} (N,) of classes, whole numbers or words", got, ARRAYS)
    if y.dtype.kind == "f":
        if not np.array_equal(y, np.floor(y)) or not np.isfinite(y).all():
            raise bad(path, f"classes in {name}", "fractions", "give whole numbers or words")
        y = y.astype(np.int64)
    return [str(label) for label in y.tolist()]


# Rows of numbers


def _rows(path: Path, features: int | None) -> Parts:
    """A column of labels, named as one of `LABEL`, else the last; numbers in all others."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [row for row in csv.reader(file) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise bad(path, "a CSV file in UTF-8", str(error), "save it as such") from error
    if not lines or len(lines[0]) < 2:
        got = f"{len(lines[0])} in the first line" if lines else "an empty file"
        raise bad(path, "two columns or more", got, "separate them by commas")
    has_header = not any(map(_is_number, lines[0]))
    header = [cell.strip().lower() for cell in lines[0]]
    named = [i for i, cell in enumerate(header) if has_header and cell in LABEL]
    labelled = len(header) != features
    at = (named[0] if named else len(header) - 1) if labelled else len(header)
    x, y = [], []
    for number, row in enumerate(lines[has_header:], 1 + has_header):
        if len(row) != len(header):
            got = f"{len(row)} in row {number}"
            raise bad(path, f"{len(header)} columns, as in the first row", got, "mend that row")
        cells = [cell for i, cell in enumerate(row) if i != at]
        if wrong := [cell for cell in cells if not _is_number(cell)]:
            fix = f"give numbers alone but for the labels ({', '.join(LABEL)} or the last column)"
            raise bad(path, "a number", f"'{wrong[0]:.40}' in row {number}", fix)
        x.append([float(cell) for cell in cells])
        y += [row[at].strip()] if labelled else []
    if not x:
        raise bad(path, "rows of examples", "a header alone", "add them")
    found = finite(path, np.array(x, np.float32))
    return {"all": Examples(found, y if labelled else None, [str(i) for i in range(len(x))])}


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# Folders of images


def _folder(path: Path, side: int | None) -> Parts:
    """A folder of each class, in the folder itself or in those of ``train`` and ``test``."""
    tests = [path / name for name in TEST if (path / name).is_dir()]
    if (path / "train").is_dir():
        parts = {"train": path / "train", **({"test": tests[0]} if tests else {})}
    else:
        parts = {"all": path}
    found = {part: _listed(folder) for part, folder in parts.items()}
    image: Any = extra("PIL.Image")
    every = [file for files in found.values() for file, _ in files]
    grey = all(_opened(image, file, _is_grey) for file in every)
    sizes: dict[tuple[int, ...], Path] = {}

    def pixels(picture: Any) -> Array:
        picture = picture.convert("L" if grey else "RGB")
        if side is not None:
            fit = extra("PIL.ImageOps").fit
            picture = fit(picture, (side, side), image.Resampling.BILINEAR)
        array = np.asarray(picture, np.float32)
        return array[None] if grey else array.transpose(2, 0, 1)

    read = {}
    for part, files in found.items():
        arrays = []
        for file, _ in files:
            arrays.append(_opened(image, file, pixels))
            sizes.setdefault(arrays[-1].shape[1:], file)
            if len(sizes) > 1:
                got = " and ".join(f"{w} x {h} ({f})" for (h, w), f in sizes.items())
                raise bad(path, "images of one size", got, f"give {path}@64 to scale all to 64")
        labels = [label for _, label in files if label is not None]
        names = [str(file.relative_to(path)) for file, _ in files]
        read[part] = Examples(np.stack(arrays), labels or None, names)
    return read


def _listed(folder: Path) -> list[tuple[Path, str | None]]:
    """Images with their classes, or with none where they lie in the folder itself."""
    datasets = import_torchvision().datasets
    if not any(entry.is_dir() for entry in folder.iterdir()):
        ends = datasets.folder.IMG_EXTENSIONS
        flat = sorted(file for file in folder.iterdir() if file.suffix.lower() in ends)
        if not flat:
            raise bad(
                folder, "images, in a folder for each class", "none", f"give {', '.join(ends)}"
            )
        return [(file, None) for file in flat]
    try:
        found = datasets.ImageFolder(folder)
    except FileNotFoundError as error:
        fix = "put each class's images into its folder, and no other folder beside"
        raise bad(folder, "a folder of images for each class", str(error), fix) from error
    return [(Path(file), found.classes[label]) for file, label in found.samples]


def _is_grey(picture: Any) -> bool:
    return picture.mode in ("1", "L")


def _opened(image: Any, file: Path, of: Callable[[Any], Any]) -> Any:
    bomb = image.DecompressionBombError, image.DecompressionBombWarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what lies beside the pixels
            warnings.simplefilter("error", image.DecompressionBombWarning)
            with file.open("rb") as handle, image.open(handle, formats=FORMATS) as picture:
                return of(picture)
    except (OSError, SyntaxError, ValueError, *bomb) as error:
        raise bad(file, "an image", str(error), "take it out, or mend it") from error
