"""Taking a thread's files out of the list, and back. They stay what they are, and can be resumed by their path.

Source: `codex-rs/core/src/rollout/mod.rs`, `ARCHIVED_SESSIONS_SUBDIR`; `thread/archive`, `thread/unarchive`.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from codex_actors.errors import RolloutError, ThreadNotFound, UnsupportedOperation
from codex_actors.rollout.listing import ARCHIVED, SESSIONS, Found, scan


def archive_thread(codex_home: Path, thread_id: str) -> Path:
    """Move a thread's files to `<home>/archived_sessions/`; the new path of the one written last.

    Raises:
        ThreadNotFound: none of its files stands in `<home>/sessions/`.
        UnsupportedOperation: a Codex has it open.
        RolloutError: a file cannot be moved.
    """
    return _move(codex_home, thread_id, to_archive=True)


def unarchive_thread(codex_home: Path, thread_id: str) -> Path:
    """Move a thread's files back to the folder of the day in their names; the new path of the one written last.

    Raises:
        ThreadNotFound: none of its files is archived.
        UnsupportedOperation: a Codex has it open.
        RolloutError: a file cannot be moved.
    """
    return _move(codex_home, thread_id, to_archive=False)


def _move(codex_home: Path, thread_id: str, *, to_archive: bool) -> Path:
    found = [file for file in scan(codex_home, archived=not to_archive) if file.thread_id == thread_id]
    if not found:
        raise ThreadNotFound(thread_id)
    _check_unlocked(codex_home, thread_id)
    found.sort(key=lambda file: file.stamp.mtime_ns)
    moves = [(file.path, _target(codex_home, file, to_archive)) for file in found]
    for _, target in moves:
        if target.exists():
            raise RolloutError(target, f"thread {thread_id} cannot be moved: a file stands where it would go")
    for path, target in moves:
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.rename(path, target)
        except OSError as error:
            raise RolloutError(path, f"cannot be moved to {target} ({error.strerror})") from error
    return moves[-1][1]


def _target(codex_home: Path, file: Found, to_archive: bool) -> Path:
    if to_archive:
        return codex_home / ARCHIVED / file.path.name
    year, month, day = file.began[:10].split("-")
    return codex_home / SESSIONS / year / month / day / file.path.name


def _check_unlocked(codex_home: Path, thread_id: str) -> None:
    """Newer Codex holds a lock for each thread that it has loaded."""
    try:
        fd = os.open(codex_home / "thread-writer-locks" / f"{thread_id}.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UnsupportedOperation(f"thread {thread_id} is open in another program; end it there first") from error
    except OSError:  # a file system without locks
        return
    finally:
        os.close(fd)
