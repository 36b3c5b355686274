"""The threads that one manager writes: claimed when they are loaded or made, looked at again around every write.

The law of this file: nothing is acknowledged behind a take-over. Who takes a thread over from a living owner first replaces
the owner's record, then copies the rollout, then puts the copy in its place. So what was acknowledged, with the record
still unchanged behind the write, is in the copy; what is written later goes into a file that nobody reads, and is refused.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from codex_actors.errors import RolloutError, WriterConflict
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.owner import HomeLocks, Stamp, stamp_of
from codex_actors.rollout.reader import thread_id_of_path

_LOGGER = logging.getLogger("codex_actors")

FENCED_SUFFIX = ".fenced"
"""Lines that were refused, as the writer had them, are appended to the rollout's name with this behind it."""

_AT_ONCE = 64
"""How many threads are freed before others may come in."""

_NO_SUCH_CALL = frozenset({errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})


@dataclass(slots=True)
class _Claim:
    home: HomeLocks
    thread_id: ThreadId
    record: str
    stamp: Stamp
    epoch: int
    holders: int = 1
    """A thread that ends and one that goes on in its file may both have it for a moment."""
    has_codex: bool = False
    conflict: WriterConflict | None = None


class Claims:
    """What one manager writes. `home` is for rollouts that lie in no home's `sessions`.

    Runs in: OS threads that may block: `claim` and `release` in any, the rest in the writer's.
    """

    def __init__(self, home: Path, now: Callable[[], datetime], *, is_synced: bool) -> None:
        self._home = home
        self._now = now
        self._is_synced = is_synced
        self._homes: dict[Path, HomeLocks] = {}
        self._folders: dict[Path, HomeLocks] = {}
        self._claims: dict[Path, _Claim] = {}
        self._is_closed = False
        self._making = threading.Lock()  # an actor never takes it

    def claim(self, path: Path, thread_id: ThreadId, *, take_over: bool = False) -> None:
        """Become the writer of the thread that `path` keeps, or hold it once more.

        A dead owner's thread is taken without asking. From a living one it is taken where `take_over` says so; its rollout is
        then another file of the same name and content.

        Raises:
            WriterConflict: it has an owner that lives, or Codex has it open.
            LocksUnsupported: the home has no locks.
            RolloutError: a lock or the rollout cannot be read or written.
        """
        try:
            self._claim(path, thread_id, take_over)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise RolloutError(path, f"cannot become the rollout's writer ({why})") from error

    def _claim(self, path: Path, thread_id: ThreadId, take_over: bool) -> None:
        home = self._home_of(path)
        home.check_codex(path, thread_id)
        with home.turnstile():
            if self._is_closed:
                raise RolloutError(path, "the manager that was to write it is closed")
            claim = self._claims.get(path)
            if claim is not None:
                if (
                    claim.conflict is not None
                ):  # until it is released: lines of a fenced thread may still be on their way
                    raise claim.conflict
                claim.holders += 1
                return
            owner = home.read(thread_id)
            is_ours = owner is not None and owner.manager == home.manager
            is_alive = owner is not None and not is_ours and home.is_alive(owner)
            if is_alive and not take_over:
                raise home.conflict(path, owner, alive=True)
            if is_alive and not path.exists():  # an owner that lives must not lose its thread for nothing
                raise RolloutError(path, "no such rollout file")
            inode = os.stat(path).st_ino if is_alive else 0
            former = home.set_aside(thread_id) if is_alive else None
            epoch = 1 if owner is None else owner.epoch + 1
            try:
                stamp = home.write(thread_id, epoch)
            except BaseException:
                if former is not None:
                    former.unlink()
                raise
            claim = self._claims[path] = _Claim(home, thread_id, str(home.record_path(thread_id)), stamp, epoch)
        if former is not None:
            try:
                self._swap(path, claim)
            except BaseException:
                self._give_back(path, claim, former, inode)
                raise
            finally:
                former.unlink(missing_ok=True)

    def _give_back(self, path: Path, claim: _Claim, former: Path, inode: int) -> None:
        """The owner whose thread could not be taken goes on, where its file still stands in its place."""
        with claim.home.turnstile():
            self._claims.pop(path, None)
            if os.stat(path).st_ino == inode:
                claim.home.put_back(claim.thread_id, claim.stamp, former)
            else:
                claim.home.remove(claim.thread_id, claim.stamp, claim.epoch)

    def release(self, *paths: Path) -> None:
        """Hold these once less; what nobody holds then is free. Unclaimed paths are ignored.

        Where a record cannot be removed it stays until this manager is closed: that is logged.
        """
        claims = [(path, claim) for path in paths if (claim := self._claims.get(path)) is not None]
        for start in range(0, len(claims), _AT_ONCE):
            some = claims[start : start + _AT_ONCE]
            for home in {claim.home for _, claim in some}:
                try:
                    self._release(home, [(path, claim) for path, claim in some if claim.home is home])
                except (OSError, RolloutError) as error:
                    _LOGGER.warning("the records of threads that ended stay until the manager is closed: %s", error)

    def _release(self, home: HomeLocks, claims: list[tuple[Path, _Claim]]) -> None:
        with home.turnstile():
            for path, claim in claims:
                claim.holders -= 1
                if claim.holders <= 0 and self._claims.pop(path, None) is claim:
                    home.remove(claim.thread_id, claim.stamp, claim.epoch)

    def open(self, path: Path) -> None:
        """Before the writer opens or makes the file: it is claimed, if nobody did that yet, and Codex is locked out.

        Raises as `claim`; also OSError.
        """
        claim = self._claims.get(path)
        if claim is None:
            thread_id = thread_id_of_path(path)
            if thread_id is None:
                raise RolloutError(path, "the name is not that of a rollout, and nobody has claimed its thread")
            self.claim(path, thread_id)
            claim = self._claims[path]
        try:
            if claim.conflict is None and not claim.has_codex:
                claim.home.lock_codex(path, claim.thread_id, claim.stamp)
                claim.has_codex = True
        except WriterConflict as conflict:
            claim.conflict = conflict
        if claim.conflict is not None:
            raise claim.conflict

    def check(self, path: Path) -> None:
        """Between opening the file and writing to it. A descriptor that is older than a take-over needs no such look: it
        writes into the old file.

        Raises:
            WriterConflict: the thread has another owner. It stays so until `release`.
        """
        claim = self._claims[path]
        self._check_record(path, claim)
        if claim.conflict is not None:
            raise claim.conflict

    def is_fenced(self, path: Path) -> bool:
        """Whether the thread has got another owner; not where it was never claimed."""
        claim = self._claims.get(path)
        if claim is None:
            return False
        self._check_record(path, claim)
        return claim.conflict is not None

    def check_written(self, path: Path, inode: int) -> None:
        """Between the last write to the file with this inode (or its fsync) and acknowledging it.

        Raises:
            WriterConflict: as `check`.
            OSError: another file stands at `path` although nobody has taken the thread over: what was written is lost.
        """
        self.check(path)
        try:
            is_in_place = os.stat(path).st_ino == inode
        except FileNotFoundError:  # renamed or deleted: whether that is a loss, the writer knows
            return
        if not is_in_place:
            raise OSError(errno.ESTALE, "another file has taken its place", str(path))

    def _check_record(self, path: Path, claim: _Claim) -> None:
        if claim.conflict is not None or stamp_of(claim.record) == claim.stamp:
            return
        # It is another file than we left: somebody's, unless only its times were touched.
        with claim.home.turnstile():
            owner = claim.home.read(claim.thread_id)
            if owner is not None and (owner.manager, owner.epoch) == (claim.home.manager, claim.epoch):
                claim.stamp = stamp_of(claim.record) or claim.stamp
            else:
                is_alive = owner is not None and claim.home.is_alive(owner)
                claim.conflict = claim.home.conflict(path, owner, alive=is_alive)

    def closed(self, path: Path) -> None:
        """The writer has closed the file: Codex may have the thread."""
        claim = self._claims.get(path)
        if claim is not None and claim.has_codex:
            claim.has_codex = False
            try:
                claim.home.unlock_codex(claim.thread_id)
            except OSError as error:
                _LOGGER.warning("rollout %s: Codex's lock of it stays until the manager is closed: %s", path, error)

    def conflict(self, path: Path) -> WriterConflict | None:
        """What has fenced the path's thread, as far as that is known."""
        claim = self._claims.get(path)
        return None if claim is None else claim.conflict

    def close(self) -> None:
        """Every thread is free; the writer has closed its files. Records that cannot be removed name a dead manager."""
        self._is_closed = True
        for claim in self._claims.values():
            claim.holders = 1
        self.release(*self._claims)
        for home in self._homes.values():
            home.close()

    def _swap(self, path: Path, claim: _Claim) -> None:
        # Outside of the turnstile: a copy may take seconds. Who takes over from us meanwhile has made a copy of their own.
        place = Path(os.path.realpath(path))
        copy = place.with_name(f"{place.name}.{claim.home.manager}")
        try:
            _copy(place, copy, is_synced=self._is_synced)
            with claim.home.turnstile():
                if stamp_of(claim.record) != claim.stamp:
                    raise claim.home.conflict(path, claim.home.read(claim.thread_id), alive=True)
                os.replace(copy, place)
        except FileNotFoundError:
            if place.exists():
                raise  # it is not the rollout that is missing
        finally:
            copy.unlink(missing_ok=True)
        if self._is_synced:
            _sync(place.parent, os.O_RDONLY | os.O_DIRECTORY)

    def _home_of(self, path: Path) -> HomeLocks:
        """By where the file is: two managers with different homes may be given the same rollout."""
        folder = path.parent
        locks = self._folders.get(folder)
        if locks is None:
            real = Path(os.path.realpath(folder))
            names = ("sessions", "archived_sessions")
            home = next((part.parent for part in (real, *real.parents) if part.name in names), self._home)
            with self._making:
                locks = self._homes.get(home) or HomeLocks(home, self._now)
                self._homes[home] = self._folders[folder] = locks
        return locks


def keep_refused(path: Path, lines: bytes) -> None:
    """Append refused lines to `<path>.fenced`.

    Raises:
        OSError: they could not be written.
    """
    with open(f"{path}{FENCED_SUFFIX}", "ab", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(lines)


def _copy(source: Path, target: Path, *, is_synced: bool) -> None:
    """A copy with the same mode and times; where the file system can share the blocks, it does (`copy_file_range`)."""
    with open(source, "rb") as from_file, open(target, "xb") as to_file:
        try:
            copy_range = os.copy_file_range
            while copy_range(from_file.fileno(), to_file.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in _NO_SUCH_CALL:
                raise
            shutil.copyfileobj(from_file, to_file)
    shutil.copystat(source, target)
    if is_synced:
        _sync(target, os.O_RDONLY)


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
