from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from codex_actors.services.atomic import write_atomically

needs_no_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")


def test_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "home" / "deep" / "a.json"
    before = os.umask(0)
    try:
        write_atomically(path, b"content")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"content"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_replaced_file_loses_its_open_mode(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"old")
    path.chmod(0o644)
    write_atomically(path, b"new")
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"new", 0o600)
    assert os.listdir(tmp_path) == ["a.json"]


def test_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "real" / "a.json"
    (tmp_path / "a.json").symlink_to(target)
    write_atomically(tmp_path / "a.json", b"new")
    assert (tmp_path / "a.json").is_symlink()
    assert target.read_bytes() == b"new"


def test_failed_write_leaves_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_atomically(tmp_path / "a.json", b"new")
    assert os.listdir(tmp_path) == ["a.json"]


@needs_no_root
def test_folder_without_permission_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o500)
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "home" / "a.json", b"new")


def test_readers_never_see_a_torn_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    contents = [bytes([letter]) * 100_000 for letter in b"abcd"]
    write_atomically(path, contents[0])

    def write(content: bytes) -> None:
        for _ in range(5):
            write_atomically(path, content)

    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_bytes() in contents
    assert path.read_bytes() in contents
    assert os.listdir(tmp_path) == ["a.json"]
