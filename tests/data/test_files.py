"""Reading, fetching and unpacking: what is not whole is refused, by name."""

import gzip
import hashlib
import http.server
import struct
import sys
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from ezo.data import _files


def idx(magic=0x0803, sizes=(2, 3, 4), body=bytes(range(24))) -> bytes:
    return struct.pack(f">{1 + len(sizes)}I", magic, *sizes) + body


@pytest.fixture
def server():
    """Serves ``.pages``, path to bytes; ``short`` claims more bytes than it sends."""
    pages = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path not in pages:
                self.send_error(404)
                return
            body = pages[self.path]
            self.send_response(200)
            self.send_header("Content-Length", str(len(body) + 5 * (self.path == "/short")))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        server.pages = pages
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return f"md5:{hashlib.md5(data).hexdigest()}"


def test_root_is_the_argument_then_the_environment_then_data(monkeypatch, tmp_path):
    monkeypatch.setenv("EZO_DATA", "elsewhere")
    assert _files.data_root(tmp_path) == tmp_path
    assert _files.data_root(None) == Path("elsewhere")
    monkeypatch.delenv("EZO_DATA")
    assert _files.data_root(None) == Path("data")


def test_a_missing_package_is_named_with_its_fix(monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModuleNotFoundError, match=r"'h5py'.*pip install -e '\.\[train\]'"):
        _files.extra("h5py")


def test_a_package_that_lacks_another_says_so_itself(monkeypatch, tmp_path):
    (tmp_path / "lacking.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_package_that_is_not_there'"):
        _files.extra("lacking")


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_is_read_plain_and_gzipped(tmp_path, zipped):
    path = tmp_path / "images-idx3-ubyte"
    assert not _files.exists(path)
    if zipped:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(idx()))
    else:
        path.write_bytes(idx())
    assert _files.exists(path)
    read = _files.read_idx(path, (2, 3, 4))
    assert read.dtype == torch.uint8
    assert torch.equal(read, torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "header of 16 bytes, got 0 bytes"),
        (idx()[:15], "header of 16 bytes, got 15 bytes"),
        (idx()[:-1], "24 bytes after the header, got 23"),
        (idx() + b"x", "24 bytes after the header, got 25"),
        (idx(magic=0x0801), "magic number 0x00000803.*got 0x00000801"),
        (idx(magic=0x0D03), "got 0x00000d03"),
        (idx(sizes=(2, 4, 3)), r"shape \(2, 3, 4\), got \(2, 4, 3\)"),
    ],
)
def test_bad_idx_is_refused(tmp_path, data, message):
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"bad: expected .*{message}.*(?s:.*)EZO_DATA"):
        _files.read_idx(path, (2, 3, 4))


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_bad_gzip_is_refused(tmp_path, damage):
    data = bytearray(gzip.compress(idx()))
    if damage == "cut":
        del data[-9:]
    elif damage == "flipped":
        data[-8] ^= 1  # in the checksum
    else:
        data[0] ^= 1
    (tmp_path / "bad.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"bad\.gz: expected a whole gzip file, got"):
        _files.read_idx(tmp_path / "bad", (2, 3, 4))


def test_missing_idx_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent or the same with \.gz.*--data-root"):
        _files.read_idx(tmp_path / "absent", (1,))


def test_download_over_http(server, tmp_path):
    server.pages["/file"] = data = b"0123456789" * 300_000
    _files.download(f"{server.url}/file", tmp_path / "file", md5(data))
    assert (tmp_path / "file").read_bytes() == data
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_download_of_a_local_file_by_sha256(tmp_path):
    (tmp_path / "source").write_bytes(b"abc")
    digest = "sha256:" + hashlib.sha256(b"abc").hexdigest().upper()
    _files.download((tmp_path / "source").as_uri(), tmp_path / "copy", digest)
    assert (tmp_path / "copy").read_bytes() == b"abc"


def test_a_wrong_checksum_leaves_what_was_there(server, tmp_path):
    server.pages["/file"] = b"forged"
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError) as caught:
        _files.download(f"{server.url}/file", tmp_path / "file", md5(b"true"))
    for part in (f"{server.url}/file", md5(b"true"), md5(b"forged"), str(tmp_path / "file")):
        assert part in str(caught.value)
    assert (tmp_path / "file").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("page", ["absent", "short"])
def test_an_interrupted_download_leaves_nothing(server, tmp_path, page):
    server.pages["/short"] = b"half"
    with pytest.raises(OSError, match=rf"expected to fetch {server.url}/{page} to .*file, got"):
        _files.download(f"{server.url}/{page}", tmp_path / "file", md5(b"half"))
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_an_error_with_the_address(tmp_path):
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as closed:
        url = f"http://127.0.0.1:{closed.server_port}/file"
    with pytest.raises(OSError, match=f"{url}.*by hand"):
        _files.download(url, tmp_path / "file", md5(b""))


def test_unzip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("folder/inner/b.txt", "b")
        file.writestr("empty/", "")
    (tmp_path / "out").mkdir()
    _files.unzip(tmp_path / "a.zip", tmp_path / "out")
    assert (tmp_path / "out/folder/inner/b.txt").read_text() == "b"
    assert (tmp_path / "out/empty").is_dir()


@pytest.mark.parametrize("name", ["../evil", "good/../../evil", "/tmp/ezo-evil"])
def test_unzip_does_not_leave_its_folder(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("good.txt", "good")
        file.writestr(name, "evil")
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match=rf"a\.zip: expected members inside .*got '{name}'"):
        _files.unzip(tmp_path / "a.zip", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path / "evil").exists()


def test_unzip_refuses_a_cut_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "whole.zip", "w") as file:
        file.writestr("a.txt", "a" * 100)
    (tmp_path / "cut.zip").write_bytes((tmp_path / "whole.zip").read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"cut\.zip: expected a whole zip file"):
        _files.unzip(tmp_path / "cut.zip", tmp_path)
