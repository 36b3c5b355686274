from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from codex_actors.errors import RolloutError, ThreadNotFound, UnsupportedOperation
from codex_actors.rollout.archive import archive_thread, unarchive_thread
from tests._kept_files import keep, kept_path, thread_id_of

ONE = thread_id_of(1)


def test_archived_thread_comes_back_unchanged(tmp_path: Path) -> None:
    path = keep(tmp_path, 1)
    before = path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino
    assert archive_thread(tmp_path, ONE) == kept_path(tmp_path, 1, archived=True)
    assert not path.exists()
    assert unarchive_thread(tmp_path, ONE) == path
    assert (path.read_bytes(), path.stat().st_mtime_ns, path.stat().st_ino) == before


def test_all_files_of_thread_move(tmp_path: Path) -> None:
    keep(tmp_path, 1, mtime_s=1_800_000_000)
    keep(tmp_path, 1, segment="_01a2", mtime_s=1_800_000_001)
    assert archive_thread(tmp_path, ONE) == kept_path(tmp_path, 1, archived=True, segment="_01a2")
    assert kept_path(tmp_path, 1, archived=True).exists()


def test_thread_that_is_elsewhere_is_not_found(tmp_path: Path) -> None:
    keep(tmp_path, 1)
    with pytest.raises(ThreadNotFound):
        unarchive_thread(tmp_path, ONE)
    with pytest.raises(ThreadNotFound):
        archive_thread(tmp_path, thread_id_of(2))


def test_file_in_the_way_stays(tmp_path: Path) -> None:
    path = keep(tmp_path, 1)
    other = keep(tmp_path, 1, "other", archived=True)
    with pytest.raises(RolloutError, match="stands where"):
        archive_thread(tmp_path, ONE)
    assert (path.exists(), other.read_text()) == (True, "other")


def test_thread_that_codex_holds_stays(tmp_path: Path) -> None:
    path = keep(tmp_path, 1)
    (tmp_path / "thread-writer-locks").mkdir()
    with (tmp_path / "thread-writer-locks" / f"{ONE}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnsupportedOperation, match=ONE):
            archive_thread(tmp_path, ONE)
        assert path.exists()
    archive_thread(tmp_path, ONE)
