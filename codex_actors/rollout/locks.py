"""Locks between processes: `flock`, which the kernel lets go when its holder dies, however it dies.

The law of this file: such a lock belongs to the open file, which a forked child shares. So who holds one unlocks it before
the descriptor is closed, and a child closes it without a word: it neither frees what its parent holds, nor holds what its
parent has left.
"""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from codex_actors.errors import LocksUnsupported, RolloutError

LIMIT_S = 10.0
"""A `Turnstile` is held for less than a millisecond: after this long its holder was stopped in the middle."""

_RETRY_S = 0.001
_UNSUPPORTED = frozenset({errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})


class FileLock:
    """An open file, locked by nobody else; `try_lock` makes it."""

    __slots__ = ("__weakref__", "fd", "path")

    def __init__(self, fd: int, path: Path) -> None:
        self.fd = fd
        self.path = path
        _OPEN.add(self)

    def release(self) -> None:
        """Unlock and close it; once."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            with suppress(OSError):
                fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def remove(self) -> None:
        """Remove the file, if it still stands at its path, and release it."""
        try:
            if os.path.samestat(os.stat(self.path), os.fstat(self.fd)):
                os.unlink(self.path)
        except FileNotFoundError:
            pass
        finally:
            self.release()


# The children of one process are everybody's affair: `os.register_at_fork` has no way back, so it is asked once.
_OPEN: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _close_in_child() -> None:
    for lock in list(_OPEN):
        if lock.fd >= 0:
            os.close(lock.fd)
            lock.fd = -1


os.register_at_fork(after_in_child=_close_in_child)


def try_lock(path: Path) -> FileLock | None:
    """The lock of the file `path`, or None while somebody else has it. Where there is none, it is made (0600).

    Raises:
        LocksUnsupported: files of this folder cannot be locked.
        OSError: the file cannot be opened.
    """
    lock = FileLock(os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600), path)
    try:
        if _flock(lock.fd, path, fcntl.LOCK_EX):
            return lock
    except BaseException:
        lock.release()
        raise
    os.close(lock.fd)
    lock.fd = -1
    return None


def is_locked(path: Path) -> bool:
    """Whether somebody has the lock of the file `path`; two who ask at once do not see each other."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _flock(fd, path, fcntl.LOCK_SH)
    finally:
        os.close(fd)


class Turnstile:
    """`with` it: one OS thread of one process at a time, for as long as a few system calls take.

    Runs in: OS threads that may block. Whoever raises the two errors of `with` has not come in.

    Raises:
        LocksUnsupported: files of this folder cannot be locked.
        RolloutError: somebody else has been in it for `LIMIT_S`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._mutex = threading.Lock()  # an actor never takes it: only OS threads that do file work do
        self._lock: FileLock | None = None

    def __enter__(self) -> Turnstile:
        if not self._mutex.acquire(timeout=LIMIT_S):
            raise self._busy()
        try:
            if self._lock is None:
                flags = os.O_RDWR | os.O_CLOEXEC | os.O_CREAT
                self._lock = FileLock(os.open(self.path, flags, 0o600), self.path)
            until_s = time.monotonic() + LIMIT_S
            while not _flock(self._lock.fd, self.path, fcntl.LOCK_EX):
                if time.monotonic() > until_s:
                    raise self._busy()
                time.sleep(_RETRY_S)
        except BaseException:
            self._mutex.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        lock = self._lock
        if lock is not None:
            fcntl.flock(lock.fd, fcntl.LOCK_UN)
        self._mutex.release()

    def close(self) -> None:
        """Close the file; the next `with` opens it again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.release()

    def _busy(self) -> RolloutError:
        why = f"another process has held this lock for {LIMIT_S:g} s, so it was stopped in the middle; let it go on or end it"
        return RolloutError(self.path, why)


def _flock(fd: int, path: Path, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupported(path) from error
        raise
    return True
