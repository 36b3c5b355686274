"""Who writes a thread: its owner's record names a manager, and that one lives as long as its lock is held.

    <home>/codex_actors/owners.lock               held while a record is read and changed
    <home>/codex_actors/owners/<thread id>.json   manager, pid, host, started, epoch
    <home>/codex_actors/writers/<manager>.lock    held by the manager while it is open
    <home>/thread-writer-locks/<thread id>.lock   Codex's own: that same file, while we have the thread's rollout open

The law of this file: the manager's lock alone says whether an owner lives; pid, host and time only explain. A record is
replaced as a whole, so its inode and change time say whether it is still the one that was read.
"""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from codex_actors.errors import LocksUnsupported, WriterConflict
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.locks import FileLock, Turnstile, is_locked, try_lock

Stamp: TypeAlias = tuple[int, int]
"""Inode and change time (ns) of a record."""

_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS})
"""What `link` says where a file has one name only."""

_RECORD_BYTES = 4096
_SWEPT = 256
"""Locks of managers that are looked at when a manager makes its own: those of dead ones are removed."""


@dataclass(frozen=True, slots=True)
class OwnerRecord:
    """What stands in an owner's record. `epoch` grows by 1 with each owner of the thread."""

    manager: str
    pid: int
    host: str
    started: str
    epoch: int


class HomeLocks:
    """What one manager has of one home. Made without touching the disk; the first `with` of `turnstile` makes the folders.

    Runs in: OS threads that may block. Records are read and changed inside of `turnstile`.
    """

    def __init__(self, home: Path, now: Callable[[], datetime]) -> None:
        self.manager = uuid.uuid4().hex  # not the clock's: what a seed replays must not meet itself in another process
        self._now = now
        self._ours = home / "codex_actors"
        self._theirs = home / "thread-writer-locks"
        self._alive: FileLock | None = None
        self._turnstile = Turnstile(self._ours / "owners.lock")
        self._codex_turnstile = Turnstile(self._theirs / ".coordination.lock")

    def turnstile(self) -> Turnstile:
        """What to be in while a record is looked at and changed."""
        if self._alive is None:
            folders = (self._ours.parent, self._ours, self._ours / "owners", self._ours / "writers", self._theirs)
            for folder in folders:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self._turnstile

    def record_path(self, thread_id: ThreadId) -> Path:
        """Where the thread's owner is named."""
        return self._ours / "owners" / f"{thread_id}.json"

    def read(self, thread_id: ThreadId) -> OwnerRecord | None:
        """The thread's owner; None where it has none, or where it died before it had written its name."""
        try:
            with open(self.record_path(thread_id), "rb") as file:
                value = json.loads(file.read(_RECORD_BYTES))
            return OwnerRecord(**{field.name: value[field.name] for field in fields(OwnerRecord)})
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def write(self, thread_id: ThreadId, epoch: int) -> Stamp:
        """Make this manager the thread's owner; whoever was it before is fenced when this returns."""
        self._live()
        started = self._now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        record = OwnerRecord(self.manager, os.getpid(), os.uname().nodename, started, epoch)
        content = json.dumps(asdict(record)).encode()
        path = self.record_path(thread_id)
        try:
            return _write_new(path, content)
        except FileExistsError:
            fresh = path.with_suffix(f".{self.manager}")
            _write_new(fresh, content)
            os.replace(fresh, path)
            return stamp_of(path) or (0, 0)  # a rename changes the change time

    def set_aside(self, thread_id: ThreadId) -> Path:
        """A second name of the record, which `write` leaves; to be unlinked, or put back."""
        aside = self.record_path(thread_id).with_suffix(f".{self.manager}.former")
        aside.unlink(missing_ok=True)
        os.link(self.record_path(thread_id), aside)
        return aside

    def put_back(self, thread_id: ThreadId, stamp: Stamp, aside: Path) -> None:
        """The former owner goes on, if it has not missed the thread yet, and nobody else owns that by now."""
        if stamp_of(self.record_path(thread_id)) == stamp:
            os.replace(aside, self.record_path(thread_id))  # takes no room on a full disk

    def remove(self, thread_id: ThreadId, stamp: Stamp, epoch: int) -> None:
        """The thread is free, unless somebody else owns it by now."""
        path = self.record_path(thread_id)
        if stamp_of(path) != stamp:  # another's, or ours that was put back
            owner = self.read(thread_id)
            if owner is None or (owner.manager, owner.epoch) != (self.manager, epoch):
                return
        os.unlink(path)

    def is_alive(self, record: OwnerRecord) -> bool:
        """Whether the owner is still open, in whatever state. What a dead one has left of itself is removed."""
        path = self._writer_path(record.manager)
        if is_locked(path):
            return True
        with suppress(FileNotFoundError):
            os.unlink(path)
        return False

    def conflict(self, path: Path, record: OwnerRecord | None, *, alive: bool) -> WriterConflict:
        """The error that names the owner."""
        if record is None:
            return WriterConflict(path, "a writer that has left no name", None, alive)
        here = "" if record.host == os.uname().nodename else f" on {record.host}"
        try:
            age = max((self._now() - datetime.fromisoformat(record.started)).total_seconds(), 0.0)
        except (ValueError, TypeError):
            age = None
        return WriterConflict(path, f"process {record.pid}{here} (manager {record.manager})", age, alive)

    def lock_codex(self, path: Path, thread_id: ThreadId, stamp: Stamp) -> None:
        """Take Codex's own lock of a thread that is ours by the record with this stamp: as a second name of this manager's
        lock, which is locked already, and costs no descriptor. From another manager, which is fenced then, it is taken away.

        Raises:
            WriterConflict: a program that is none of ours has it, or the thread is not ours any more.
            LocksUnsupported: a file cannot have two names here.
        """
        assert self._alive is not None
        lock_path = self._theirs / f"{thread_id}.lock"
        try:
            os.link(self._alive.path, lock_path)
        except FileExistsError:
            if self._has_codex(lock_path):
                return
            with self._codex_turnstile:
                if is_locked(lock_path):
                    self._check_holder(path, lock_path)
                with self._turnstile:
                    if stamp_of(self.record_path(thread_id)) != stamp:
                        raise self.conflict(path, self.read(thread_id), alive=True) from None
                    lock_path.unlink(missing_ok=True)
                    os.link(self._alive.path, lock_path)
        except OSError as error:
            if error.errno in _NO_LINKS:
                raise LocksUnsupported(lock_path) from error
            raise

    def unlock_codex(self, thread_id: ThreadId) -> None:
        """Give Codex's lock back, as Codex does it: without leaving the file."""
        lock_path = self._theirs / f"{thread_id}.lock"
        if self._has_codex(lock_path):
            os.unlink(lock_path)

    def check_codex(self, path: Path, thread_id: ThreadId) -> None:
        """Raises `WriterConflict` while a program that is none of ours has the thread open."""
        lock_path = self._theirs / f"{thread_id}.lock"
        if lock_path.exists():
            with self._codex_turnstile:
                if is_locked(lock_path):
                    self._check_holder(path, lock_path)

    def _has_codex(self, lock_path: Path) -> bool:
        try:
            return self._alive is not None and os.path.samestat(os.stat(lock_path), os.fstat(self._alive.fd))
        except FileNotFoundError:
            return False

    def _check_holder(self, path: Path, lock_path: Path) -> None:
        try:
            stat = lock_path.stat()
        except FileNotFoundError:  # it was given back meanwhile
            return
        if not self._is_ours(stat):
            raise WriterConflict(
                path,
                f"another program (Codex, as it seems; {lock_path} is locked), which cannot be taken over,",
                None,
                True,
            )

    def _is_ours(self, stat: os.stat_result) -> bool:
        """Whether it is the lock of a manager: among us the thread's record is what counts. By what the file is: how many
        names it has changes while others come and go."""
        with suppress(FileNotFoundError):  # no manager has ever come here
            for name in os.listdir(self._ours / "writers"):
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(self._ours / "writers" / name), stat):
                        return True
        return False

    def close(self) -> None:
        """This manager lives no more: what it still owns can be taken by anybody."""
        alive, self._alive = self._alive, None
        if alive is not None:
            alive.remove()
        self._turnstile.close()
        self._codex_turnstile.close()

    def _live(self) -> None:
        if self._alive is None:
            self._sweep()
            self._alive = try_lock(self._writer_path(self.manager))

    def _sweep(self) -> None:
        for name in os.listdir(self._ours / "writers")[:_SWEPT]:
            path = self._ours / "writers" / name
            if not is_locked(path):
                with suppress(FileNotFoundError):
                    os.unlink(path)

    def _writer_path(self, manager: str) -> Path:
        # A name that is none of ours must not lead out of the folder.
        return self._ours / "writers" / f"{manager.replace('/', '_')}.lock"


def stamp_of(record_path: Path | str) -> Stamp | None:
    """The stamp of the record that stands there, or None."""
    try:
        stat = os.stat(record_path)
    except FileNotFoundError:
        return None
    return (stat.st_ino, stat.st_ctime_ns)


def _write_new(path: Path, content: bytes) -> Stamp:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(fd, content) < len(content):  # half a name is none, and would leave the thread to anybody
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        stat = os.fstat(fd)
    except OSError:
        os.unlink(path)
        raise
    finally:
        os.close(fd)
    return (stat.st_ino, stat.st_ctime_ns)
