"""Files of data sets: where they lie, and strict reading, downloading and unpacking of them."""

import gzip
import hashlib
import http.client
import importlib
import math
import os
import struct
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

WHERE = "say where data lies with --data-root or the environment variable EZO_DATA"


def data_root(root: Path | None) -> Path:
    """The folder of all data sets: ``root``, else ``$EZO_DATA``, else ``data``."""
    return Path(root) if root is not None else Path(os.environ.get("EZO_DATA") or "data")


def extra(module: str, of: str = "train") -> Any:
    """Import a module of one of ezo's extras.

    Raises:
        ModuleNotFoundError: it is not installed; the message gives the command.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"expected the package of '{package}', got none installed; in the clone: "
            f"pip install -e '.[{of}]' -c constraints.txt",
            name=error.name,
        ) from error


def exists(path: Path) -> bool:
    """Whether ``path`` is there for `read_idx`, as it is or gzipped."""
    return path.is_file() or _zipped(path).is_file()


def read_idx(path: Path, shape: tuple[int, ...]) -> Tensor:
    """Read an IDX file of unsigned bytes: ``path``, or ``path``.gz where only that is there.

    Raises:
        FileNotFoundError: neither file is there.
        ValueError: the file is truncated, corrupt, too long, no IDX file of bytes, or not of
            ``shape``.
    """
    path = path if path.is_file() else _zipped(path)
    start, size = 4 * (1 + len(shape)), math.prod(shape)
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            data = file.read(start + size + 1)  # no more: a small file may unpack to a huge one
    except FileNotFoundError:
        raise FileNotFoundError(
            f"expected {path.with_suffix('')} or the same with .gz, got neither; {WHERE}"
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise bad(path, "a whole gzip file", str(error)) from error
    except OSError as error:
        raise OSError(
            f"{path}: expected a file that can be read, got: {error.strerror}; {WHERE}"
        ) from error
    if len(data) < start:
        raise bad(path, f"a header of {start} bytes", f"{len(data)} bytes in all")
    magic, *sizes = struct.unpack_from(f">{1 + len(shape)}I", data)
    if magic != (expected := 0x0800 + len(shape)):
        kind = f"unsigned bytes in {len(shape)} dimensions"
        raise bad(path, f"the magic number {expected:#010x} ({kind})", f"{magic:#010x}")
    if tuple(sizes) != shape:
        raise bad(path, f"the shape {shape}", f"{tuple(sizes)}")
    if len(data) - start != size:
        more = " or more" if len(data) - start > size else ""
        raise bad(path, f"{size} bytes after the header", f"{len(data) - start}{more}")
    return torch.from_numpy(np.frombuffer(data, np.uint8, offset=start).reshape(shape).copy())


def download(url: str, destination: Path, digest: str) -> None:
    """Fetch a URL; ``destination`` appears only whole, of a ``digest`` such as ``md5:<32 digits>``.

    Raises:
        OSError: nothing came, or not all of it, or it could not be written.
        ValueError: what came has another checksum.
    """
    algorithm, _, expected = digest.partition(":")
    checksum = hashlib.new(algorithm)
    # Beside the destination: renaming is atomic only within one file system.
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".download-") as folder:
        part = Path(folder) / "part"
        try:
            with urllib.request.urlopen(url, timeout=30) as response, part.open("wb") as file:
                while block := response.read(1 << 20):
                    checksum.update(block)
                    file.write(block)
                length = response.headers.get("Content-Length")
            if length is not None and part.stat().st_size != int(length):
                raise OSError(f"{part.stat().st_size} of {length} bytes")
        except (OSError, http.client.HTTPException) as error:
            raise OSError(
                f"expected to fetch {url} to {destination}, got: {error}; check the "
                "network and try again, or fetch it by hand"
            ) from error
        if checksum.hexdigest() != expected.lower():
            raise ValueError(
                f"{url}: expected a file of {digest}, got "
                f"{algorithm}:{checksum.hexdigest()} ({part.stat().st_size} bytes); "
                f"{destination} was not written; try again, or fetch it by hand from "
                "a place you trust"
            )
        os.replace(part, destination)


def unzip(archive: Path, folder: Path) -> None:
    """Unpack an archive under ``folder``, which is there.

    Raises:
        ValueError: it is no whole zip file, or a member would land outside ``folder``; in the
            latter case nothing is written.
        OSError: a member can't be written.
    """
    try:
        with zipfile.ZipFile(archive) as file:
            for name in file.namelist():
                if not name:
                    raise bad(archive, "members with names", "one without")
                if not (folder / name).resolve().is_relative_to(folder.resolve()):
                    raise BadFile(
                        f"{archive}: expected members inside {folder}, got '{name}'; "
                        "don't use this archive"
                    )
            for member in file.infolist():
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise bad(archive, "members stored or deflated", str(member))
            file.extractall(folder)
    except BadFile:
        raise
    except (
        zipfile.BadZipFile,
        EOFError,
        zlib.error,
        LookupError,
        RuntimeError,
        ValueError,  # since Python 3.12, of a member without a name
    ) as error:
        raise bad(archive, "a whole zip file", str(error)) from error
    except OSError as error:
        raise OSError(
            f"{archive}: expected to unpack it under {folder}, got: {error}; make room, or fetch "
            "the file again"
        ) from error


def _zipped(path: Path) -> Path:
    return path.with_name(path.name + ".gz")


class BadFile(ValueError):
    """A file is not what it should be."""


def bad(
    path: Path, expected: str, got: str, fix: str = "delete the file and fetch it again"
) -> BadFile:
    """What is wrong with a file, and what to do."""
    return BadFile(f"{path}: expected {expected}, got {got}; {fix}, or {WHERE}")
