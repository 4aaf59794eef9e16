"""Archives of data sets: what is unpacked, and what is refused before anything is written."""

import zipfile
from pathlib import Path

import pytest

from ezo.data._files import unzip


def archive(folder: Path, *names: str) -> Path:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "text")
    return path


def refused(path: Path, folder: Path, why: str) -> None:
    folder.mkdir()
    with pytest.raises(ValueError, match=why) as found:
        unzip(path, folder)
    assert str(found.value).startswith(f"{path}: expected ") and not list(folder.iterdir())


def test_members_come_out_where_their_names_say(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    unzip(archive(tmp_path, "a/b.txt", "c.txt"), tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_text() == (tmp_path / "out/c.txt").read_text() == "text"


def test_a_member_that_would_land_outside_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, "a.txt", "../b.txt")
    refused(path, tmp_path / "out", "got '../b.txt'; don't use this archive")
    assert not (tmp_path / "b.txt").exists()


def test_a_member_without_a_name_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path, "X")
    path.write_bytes(path.read_bytes().replace(b"X", b"\0"))  # where readers take a name to end
    refused(path, tmp_path / "out", "delete the file and fetch it again")


@pytest.mark.parametrize("kept", [0, 10, -10])
def test_what_is_no_whole_archive_is_refused(tmp_path: Path, kept: int) -> None:
    path = archive(tmp_path, "a.txt")
    path.write_bytes(path.read_bytes()[:kept])
    refused(path, tmp_path / "out", "expected a whole zip file, got .*; delete the file")
