"""Atomic writing: whole or not at all, and nothing but plain files is ever replaced."""

import os
from pathlib import Path

import pytest

from maqd_snn import MaqdError
from maqd_snn.files import atomic_path, write_text


def test_a_failure_keeps_the_old_file_and_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def stop_half_way():
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_names_the_file_and_not_the_temporary_one(tmp_path, monkeypatch):
    def read_only(self, mode):
        raise OSError(30, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "chmod", read_only)
    with pytest.raises(MaqdError) as caught:
        write_text(tmp_path / "a.txt", "x")
    said = f"cannot write '{tmp_path / 'a.txt'}': Read-only file system; the previous file, if any, is unchanged"
    assert str(caught.value) == said


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_what_is_no_plain_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MaqdError, match="is a device or a pipe"):
        write_text(tmp_path / "pipe", "x")
    with pytest.raises(MaqdError, match="is a folder; give a name inside it"):
        write_text(tmp_path, "x")
    with pytest.raises(MaqdError, match="the folder .* does not exist; create it first"):
        write_text(tmp_path / "no" / "a.txt", "x")
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_others_may_read_what_the_umask_lets_them(tmp_path):
    before = os.umask(0o027)
    try:
        with atomic_path(tmp_path / "a") as temporary:
            temporary.touch(mode=0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
