from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from codex_actors.errors import LocksUnsupported, RolloutError
from codex_actors.rollout import locks
from codex_actors.rollout.locks import Turnstile, is_locked, try_lock

FORKED = """
import os, sys
from pathlib import Path
from codex_actors.rollout.locks import is_locked, try_lock

path = Path(sys.argv[1])
lock = try_lock(path)
(child_reads, parent_writes), (parent_reads, child_writes) = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    os.close(parent_writes)
    os.write(child_writes, b"%d %d" % (lock.fd, is_locked(path)))
    os.read(child_reads, 1)  # until the parent has ended
    os._exit(0)
print(os.read(parent_reads, 9).decode(), is_locked(path), child, flush=True)
sys.stdin.read()
os.kill(os.getpid(), 9)
"""


def no_locks(*_: Any) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_a_lock_excludes_everybody_else(tmp_path: Path) -> None:
    lock = try_lock(tmp_path / "lock")
    assert lock is not None
    assert try_lock(tmp_path / "lock") is None
    assert is_locked(tmp_path / "lock")
    lock.release()
    assert not is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "missing")


def test_only_the_file_in_place_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    first = try_lock(path)
    path.unlink()
    second = try_lock(path)
    assert first is not None
    assert second is not None
    first.remove()
    assert is_locked(path)
    second.remove()
    assert not path.exists()


def test_a_folder_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", no_locks)
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(LocksUnsupported, match='single_writer="trust"') as caught:
        try_lock(tmp_path / "lock")
    assert caught.value.path == tmp_path / "lock"
    assert len(os.listdir("/dev/fd")) == before


def test_a_turnstile_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "LIMIT_S", 0.01)
    stopped, other = Turnstile(tmp_path / "lock"), Turnstile(tmp_path / "lock")
    with stopped, pytest.raises(RolloutError, match="stopped in the middle"):
        other.__enter__()
    with other:
        assert is_locked(tmp_path / "lock")
    assert not is_locked(tmp_path / "lock")
    stopped.close()
    other.close()


def test_forked_child_neither_frees_nor_holds(tmp_path: Path) -> None:
    script = [sys.executable, "-c", FORKED, str(tmp_path / "lock")]
    parent = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdin is not None
    fd, in_child, in_parent, child = parent.stdout.readline().split()
    assert (fd, in_child, in_parent) == ("-1", "1", "True")
    parent.stdin.close()
    parent.wait(timeout=10)
    assert Path(f"/proc/{child}").exists() or sys.platform != "linux"
    assert not is_locked(tmp_path / "lock")
    os.kill(int(child), 9)
    parent.stdout.close()
