"""Downloads from a server on this machine: whole and right, or nothing at all."""

import gzip
import hashlib
import io
import struct
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from maqd_snn.datasets import fetch, load
from maqd_snn.datasets.cifar import CIFAR10, Batch
from maqd_snn.datasets.fetch import fetch_archive, fetch_file, unpack
from maqd_snn.datasets.mnist import MNIST10K, IdxFile
from maqd_snn.errors import MaqdError

CONTENT = b"the official file" * 1000


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(url, a dict path -> content to fill); below `/short/` the connection breaks off half-way."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = files.get(self.path.removeprefix("/short"))
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path.startswith("/short") else content)

        def log_message(self, *_: object) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", files
        server.shutdown()
        thread.join()


def archive_of(*members: tarfile.TarInfo | tuple[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                tar.addfile(member)
            else:
                info = tarfile.TarInfo(member[0])
                info.size = len(member[1])
                tar.addfile(info, io.BytesIO(member[1]))
    return buffer.getvalue()


def test_a_file_comes_whole_and_alone(served, tmp_path: Path) -> None:
    url, files = served
    files["/a.gz"] = CONTENT
    root = tmp_path / "not" / "yet"
    fetch_file(f"{url}/a.gz", md5(CONTENT), root, root / "folder" / "b.gz")
    assert [path.relative_to(root).as_posix() for path in root.rglob("*")] == ["folder", "folder/b.gz"]
    assert (root / "folder" / "b.gz").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("path", "checksum", "message"),
    [
        ("/none", md5(CONTENT), r"could not download http://.*/none \(HTTPError\)"),
        ("/short/a", md5(CONTENT), r"could not download http://.*/short/a \(\w+Error\); check the connection"),
        ("/a", "0" * 32, "what came from http://.*/a has not the official md5 0000"),
    ],
)
def test_a_failed_download_leaves_nothing(served, tmp_path: Path, path: str, checksum: str, message: str) -> None:
    url, files = served
    files["/a"] = CONTENT
    with pytest.raises(MaqdError, match=message):
        fetch_file(url + path, checksum, tmp_path, tmp_path / "folder" / "a")
    with pytest.raises(MaqdError, match=message):
        fetch_archive(url + path, checksum, tmp_path, "folder", ["a"])
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with pytest.raises(MaqdError, match=r"could not download http://127.0.0.1:9/x.gz \(ConnectionError\)"):
        fetch_file("http://127.0.0.1:9/x.gz", md5(b""), tmp_path, tmp_path / "x.gz")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MaqdError, match=r"cannot write under .*file/root' \(Not a directory\); name another data root"):
        fetch_file("http://127.0.0.1:9/x.gz", md5(b""), tmp_path / "file" / "root", tmp_path / "x.gz")


def test_an_archive_gives_the_named_files_only(served, tmp_path: Path) -> None:
    url, files = served
    files["/c.tar.gz"] = archive_of(("d/a", b"1"), ("d/b", b"22"), ("d/readme", b"3"), ("../evil", b"4"))
    root = tmp_path / "root"
    fetch_archive(f"{url}/c.tar.gz", md5(files["/c.tar.gz"]), root, "d", ["a", "b"])
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")) == [
        "root",
        "root/d",
        "root/d/a",
        "root/d/b",
    ]
    assert (root / "d" / "b").read_bytes() == b"22"
    with pytest.raises(MaqdError, match="d' is there but incomplete; move it away"):
        fetch_archive(f"{url}/c.tar.gz", md5(files["/c.tar.gz"]), root, "d", ["a", "b"])


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("archive", "message"),
    [
        (archive_of(("../a", b"1")), "'d/a' not found"),
        (archive_of(("/d/a", b"1")), "'d/a' not found"),
        (archive_of(("x/../d/a", b"1")), "'d/a' not found"),
        (archive_of(link("d/a", "/etc/passwd", tarfile.SYMTYPE)), "d/a is no regular file"),
        (archive_of(("x", b"1"), link("d/a", "x", tarfile.LNKTYPE)), "d/a is no regular file"),
        (archive_of(link("d/a", "", tarfile.FIFOTYPE)), "d/a is no regular file"),
        (archive_of(("d/a", CONTENT))[:-30], "c.tar.gz' is not the expected archive"),
        (b"", "c.tar.gz' is not the expected archive"),
        (b"no archive", "c.tar.gz' is not the expected archive"),
    ],
    ids=lambda value: "archive" if isinstance(value, bytes) else value,
)
def test_a_bad_archive_leaves_nothing(served, tmp_path: Path, archive: bytes, message: str) -> None:
    url, files = served
    files["/c.tar.gz"] = archive
    root = tmp_path / "root"
    with pytest.raises(MaqdError, match=message):
        fetch_archive(f"{url}/c.tar.gz", md5(archive), root, "d", ["a"])
    assert list(tmp_path.rglob("*")) == [root]


def test_a_link_folder_in_the_archive_leads_nowhere(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    archive = tmp_path / "c.tar.gz"
    archive.write_bytes(archive_of(link("d", str(outside), tarfile.SYMTYPE), ("d/a", b"1")))
    unpack(archive, "d", ["a"], tmp_path / "into")
    assert (tmp_path / "into" / "a").read_bytes() == b"1"
    assert list(outside.iterdir()) == []


def test_a_file_too_large_for_any_dataset_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", len(CONTENT) - 1)
    archive = tmp_path / "c.tar.gz"
    archive.write_bytes(archive_of(("d/a", CONTENT)))
    with pytest.raises(MaqdError, match="d/a is no regular file of at most 16999 bytes"):
        unpack(archive, "d", ["a"], tmp_path / "into")
    assert list((tmp_path / "into").iterdir()) == []


def idx(array: np.ndarray) -> bytes:
    return gzip.compress(bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes())


def test_an_idx_dataset_is_fetched_then_read_without_the_server(served, tmp_path: Path) -> None:
    url, files = served
    codes = np.random.RandomState(0).randint(0, 256, (1200, 28, 28)).astype(np.uint8)
    contents = {"images": idx(codes), "labels": idx((np.arange(1200) % 10).astype(np.uint8))}
    pair = tuple(
        IdxFile(name, md5(contents[name]), shape) for name, shape in (("images", (1200, 28, 28)), ("labels", (1200,)))
    )
    entry = replace(MNIST10K, url=f"{url}/", test=pair)
    files["/images.gz"] = contents["images"]
    with pytest.raises(MaqdError, match=r"could not download .*/labels.gz \(HTTPError\)"):
        entry.read(tmp_path, download=True)
    files["/labels.gz"] = contents["labels"]
    train, test = entry.read(tmp_path, download=True)
    files.clear()
    again, _ = entry.read(tmp_path, download=True)
    assert (len(train), len(test), len(again)) == (200, 1000, 200)
    train, test = replace(entry, train=pair).read(tmp_path, download=False)
    assert (train.part, len(train), test.part, len(test)) == ("train+validation", 1200, "test", 1200)
    np.testing.assert_array_equal(train.codes[:, 0], codes)
    assert sorted(path.name for path in (tmp_path / "mnist").iterdir()) == ["images.gz", "labels.gz"]


def test_an_archive_dataset_is_fetched_then_read_without_the_server(served, tmp_path: Path) -> None:
    url, files = served
    # The archive is checked as a whole, then each batch again when it is read: here the batches are not CIFAR's.
    archive = archive_of(*((f"cifar-10-batches-py/{name}", name.encode()) for name in ("a", "b", "batches.meta")))
    files["/c.tar.gz"] = archive
    entry = replace(
        CIFAR10, url=f"{url}/c.tar.gz", md5=md5(archive), train=(Batch("a", md5(b"a")),), test=Batch("b", md5(b"b"))
    )
    with pytest.raises(MaqdError, match="a' is no pickle of plain data"):
        entry.read(tmp_path, download=True)
    files.clear()
    with pytest.raises(MaqdError, match="a' is no pickle of plain data"):
        entry.read(tmp_path, download=True)
    assert sorted(path.name for path in (tmp_path / "cifar-10-batches-py").iterdir()) == ["a", "b", "batches.meta"]


def test_nothing_is_fetched_unasked(tmp_path: Path) -> None:
    for name in ("mnist", "mnist10k", "fashion-mnist", "cifar10", "cifar100"):
        with pytest.raises(MaqdError, match=f"dataset {name!r} is not under .*download=True"):
            load(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
