"""Writing rollout files: whole lines, in order, each once, whatever the disk says in between.

The law of this file: after every write a rollout ends in a whole line, or is cut back to one; what could not be written
waits in memory, in front of what comes later for the same file. A rollout that is not as it was left is not written to. One
OS thread uses a writer.
Source: `codex-rs/core/src/rollout/recorder.rs`, `RolloutRecorder`; that of the seed loses what it could not write.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from codex_actors.config import Durability
from codex_actors.errors import (
    InvalidRequest,
    LocksUnsupported,
    RolloutError,
    RolloutUnavailable,
    UnsupportedOperation,
    WriterConflict,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.claims import Claims, keep_refused
from codex_actors.rollout.damage import set_aside
from codex_actors.rollout.encode import time_of
from codex_actors.rollout.files import APPENDING, NEW, Files, fsync_folder, make_folders, publish, write_all
from codex_actors.rollout.owed import Append, Cut, Owed
from codex_actors.rollout.pieces import Piece, is_torn, last_line

_LOGGER = logging.getLogger("codex_actors")

MAX_OPEN_FILES = 128
"""How many rollouts a writer keeps open; the one used longest ago is closed first."""

_PROBE_BYTES = 1 << 16
"""So much is tried first of what waits: a full disk says so soon."""


class _Changed(OSError):
    """A file is not as it was left. When its thread has ended nobody comes back to these lines: they are refused, and who
    resumes the thread begins with the file as it is."""


class _Left(NamedTuple):
    """How a file was left."""

    inode: int
    size: int
    timestamp: str


@dataclass(slots=True)
class _OpenFile:
    fd: int
    inode: int
    size: int
    timestamp: str
    lacks_newline: bool = False


class RolloutWriter:
    """Appends to any number of rollouts, through `files`.

    Runs in: one OS thread, which may block on the disk.
    """

    def __init__(self, durability: Durability, files: Files | None = None, claims: Claims | None = None) -> None:
        """`claims` says which rollouts are this writer's to write; None trusts that nobody else writes them."""
        self._claims = claims
        self._ended: list[Path] = []
        self._os = files or Files()
        self._fsync = durability == "fsync"
        self._files: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._left: dict[Path, _Left] = {}
        self._owed: dict[Path, Owed] = {}
        self._closed = False

    def write(self, batch: Sequence[Append]) -> list[RolloutError | None]:
        """One result for each of `batch`, in its order: None once its lines are as durable as asked for.

        All lines of one file go out in one write (and one fsync). After a `RolloutUnavailable` the lines wait: the next
        `Append` for that path writes them first, and all that waits for a path succeeds or fails together. Only lines that
        cannot be put into JSON are refused for good; their `RolloutError` says so. Of a file's first lines the very first
        is kept even then, to stand in front of what comes next: without it nobody could read the file again.

        Raises:
            UnsupportedOperation: the writer is closed.
        """
        if self._closed:
            raise UnsupportedOperation("the rollout writer is closed")
        results: list[RolloutError | None] = [None] * len(batch)
        indexes_of: dict[Path, list[int]] = {}
        for index, append in enumerate(batch):
            indexes_of.setdefault(append.path, []).append(index)
        for path, indexes in indexes_of.items():
            try:
                self._write_path(path, [batch[index] for index in indexes], indexes, results)
            except Exception as error:  # a bug, which must not cost the other files of the batch their lines
                _LOGGER.exception("rollout %s: the writer failed", path)
                for index in indexes:
                    results[index] = RolloutError(path, f"the rollout writer failed ({error!r})")
        ended, self._ended = self._ended, []
        if self._claims is not None:
            self._claims.release(*ended)
        return results

    def waiting(self) -> dict[Path, int]:
        """How many lines each path is owed; paths that are owed nothing are not in it."""
        return {path: owed.count for path, owed in self._owed.items() if owed.count}

    def close(self) -> None:
        """Tries once more what waits, then closes every file. What still waits is logged, and stays in `waiting()`; the lines
        of a file that another program has changed are kept beside it."""
        if self._closed:
            return
        for path in list(self._owed):
            self._write_path(path, [], [], [])
        for path, lines in self.waiting().items():
            _LOGGER.error("rollout %s: %d line(s) could not be written", path, lines)
            if self._owed[path].is_changed:
                self._refuse(path, self._owed[path])
        self._closed = True
        while self._files:
            self._close(next(iter(self._files)))
        if self._claims is not None:
            self._claims.close()

    def _write_path(
        self, path: Path, appends: list[Append], indexes: list[int], results: list[RolloutError | None]
    ) -> None:
        owed = self._owed.pop(path, None) or Owed()
        for append, index in zip(appends, indexes, strict=True):
            # Before the file is made: one without its first line would be there for good.
            results[index] = owed.take(append)
        error: OSError | ValueError | RolloutError | None = None
        if self._claims is not None and (conflict := self._claims.conflict(path)) is not None:
            error = conflict  # also of an append without items, whose thread must not take it for an acknowledgement
        elif owed.count:
            try:
                self._bring(path, owed)
            except (OSError, ValueError, RolloutError) as raised:  # ValueError: a NUL byte in the path
                error = raised
                self._close(path)
            except BaseException:  # a bug, which must not cost the lines
                self._owed[path] = owed
                raise
        if owed.is_last and isinstance(error, _Changed):
            error = WriterConflict(path, "another program", None, False)
        if isinstance(error, WriterConflict):
            self._refuse(path, owed)
        if error is None or isinstance(error, WriterConflict):
            for index in indexes:
                results[index] = results[index] or error
            if owed.is_last:
                self._close(path)
                self._left.pop(path, None)
                self._ended.append(path)
            elif error is not None:
                return
            elif owed.head is not None:
                self._owed[path] = owed
            return
        owed.has_failed = True
        owed.is_changed = isinstance(error, _Changed | FileNotFoundError) and path in self._left
        self._owed[path] = owed
        code = getattr(error, "errno", None) or getattr(error.__cause__, "errno", None) or errno.EINVAL
        detail = getattr(error, "strerror", None) or getattr(error, "reason", None) or str(error)
        refused: RolloutError = RolloutUnavailable(path, code, owed.count, owed.size_bytes, detail)
        if isinstance(error, LocksUnsupported):
            refused = error
        for index in indexes:
            results[index] = results[index] or refused

    def _refuse(self, path: Path, owed: Owed) -> None:
        """Nobody will write these lines: they are kept beside the rollout."""
        self._close(path)
        lines = len(owed.lines)
        if not lines:
            return
        try:
            keep_refused(path, owed.stamped("")[0])
            _LOGGER.warning("rollout %s: another program writes it; %d refused line(s) are in its .fenced", path, lines)
        except OSError as error:
            _LOGGER.error("rollout %s: another program writes it; %d line(s) are lost (%s)", path, lines, error)

    def _bring(self, path: Path, owed: Owed) -> None:
        """Everything that waits for `path` is as durable as asked for when this returns."""
        if owed.create:
            self._make(path, owed)
        else:
            file = self._open(path, owed)
            if owed.lines:
                self._append(path, file, owed)
        # Later than the lines, which are not written twice if this fails.
        if self._fsync:
            while owed.folders:
                fsync_folder(self._os, owed.folders[-1])
                owed.folders.pop()
        owed.unsynced = 0

    def _make(self, path: Path, owed: Owed) -> None:
        """Make the file with its first lines, under another name: a file that is killed in its making is none."""
        if self._claims is not None:
            self._claims.open(path)
        temporary = Path(f"{path}.new")
        try:
            fd = self._open_temporary(temporary)
        except FileNotFoundError:
            make_folders(path.parent, owed.folders)
            fd = self._open_temporary(temporary)
        try:
            data, timestamp = owed.stamped("")
            self._write(fd, data, owed)
            if self._fsync:
                self._os.fsync(fd)
            stat = os.fstat(fd)
            if self._claims is not None:
                self._claims.check(path)
            publish(temporary, path)
        except BaseException:
            self._release(fd, path)
            with suppress(OSError):
                os.unlink(temporary)
            raise
        owed.create = False
        owed.folders.append(path.parent)
        self._keep(path, _OpenFile(fd, stat.st_ino, stat.st_size, timestamp), owed)

    def _open_temporary(self, temporary: Path) -> int:
        with suppress(FileNotFoundError):  # of an attempt that was killed
            os.unlink(temporary)
        return self._os.open(temporary, NEW)

    def _open(self, path: Path, owed: Owed) -> _OpenFile:
        file = self._files.get(path)
        if file is not None:
            stat = os.fstat(file.fd)
            if stat.st_nlink and stat.st_size == file.size:
                self._files.move_to_end(path)
                return file
            # Deleted, or somebody else wrote to it: what we write would vanish, or stand among other lines.
            self._close(path)
        if self._claims is not None:
            self._claims.open(path)
        fd = self._os.open(path, APPENDING)
        try:
            if self._claims is not None:
                self._claims.check(path)
            file = self._look(path, fd, owed)
        except BaseException:
            self._release(fd, path)
            raise
        self._hold(path, file)
        return file

    def _look(self, path: Path, fd: int, owed: Owed) -> _OpenFile:
        """What was opened is what was left; it ends in a whole line then."""
        stat, left = os.fstat(fd), self._left.get(path)
        inode, size = stat.st_ino, stat.st_size
        if owed.cut is not None:
            size = self._cut(fd, inode, size, owed.cut)
            owed.cut = None
        if left is not None:
            if (inode, size) != (left.inode, left.size):
                raise _Changed(
                    errno.ESTALE,
                    f"it was changed by another program: {size} bytes in inode {inode}, "
                    f"and not {left.size} in inode {left.inode}, as it was left; resume the thread from it anew",
                )
            return _OpenFile(fd, inode, size, left.timestamp)
        start, line = last_line(fd, size)
        if is_torn(line):
            set_aside(path, [Piece(start, 0, line, "torn")], self._os, sync=self._fsync)
            self._os.ftruncate(fd, start)
            size = start
            line = last_line(fd, size)[1]
        return _OpenFile(fd, inode, size, time_of(line), size > 0 and not line.endswith(b"\n"))

    def _cut(self, fd: int, inode: int, size: int, cut: Cut) -> int:
        """Cut off what an earlier attempt left behind, if that is what stands there; the size then."""
        more = size - cut.end
        if inode != cut.inode or not 0 < more <= len(cut.data) or os.pread(fd, more, cut.end) != cut.data[:more]:
            return size
        self._os.ftruncate(fd, cut.end)
        return cut.end

    def _append(self, path: Path, file: _OpenFile, owed: Owed) -> None:
        data, timestamp = owed.stamped(file.timestamp)
        if file.lacks_newline:
            data = b"\n" + data
        try:
            self._write(file.fd, data, owed)
            if self._fsync:
                self._os.fsync(file.fd)
            if self._claims is not None:
                self._claims.check_written(path, file.inode)
        except WriterConflict:
            raise  # the file is not ours to cut
        except BaseException:
            # Also after a failed fsync: the kernel takes the pages for clean then, and a second one would prove nothing.
            # They are written anew, at their place, through another descriptor.
            try:
                self._os.ftruncate(file.fd, file.size)
            except OSError:
                owed.cut = Cut(file.inode, file.size, data)
            raise
        file.size += len(data)
        file.timestamp, file.lacks_newline = timestamp, False
        self._keep(path, file, owed)

    def _write(self, fd: int, data: bytes, owed: Owed) -> None:
        if owed.has_failed and len(data) > _PROBE_BYTES:
            write_all(self._os, fd, data[:_PROBE_BYTES])
            data = data[_PROBE_BYTES:]
        write_all(self._os, fd, data)

    def _keep(self, path: Path, file: _OpenFile, owed: Owed) -> None:
        """The lines are in the file: they are never written again."""
        self._left[path] = _Left(file.inode, file.size, file.timestamp)
        owed.written()
        self._hold(path, file)

    def _hold(self, path: Path, file: _OpenFile) -> None:
        self._files[path] = file
        if len(self._files) > MAX_OPEN_FILES:
            self._close(next(iter(self._files)))

    def _close(self, path: Path) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            self._release(file.fd, path)
        if self._claims is not None:
            self._claims.closed(path)

    def _release(self, fd: int, path: Path) -> None:
        try:
            self._os.close(fd)
        except OSError as error:  # the descriptor is free all the same, and its lines were synced if that was asked for
            _LOGGER.warning("rollout %s: not closed in order (%s)", path, error.strerror)


def rollout_path(codex_home: Path | str, thread_id: ThreadId, now: datetime) -> Path:
    """Where a thread that starts `now` is kept: `<home>/sessions/YYYY/MM/DD/rollout-<time>-<id>.jsonl`, local time.

    Raises:
        InvalidRequest: `now` has no time zone.
    """
    local = _aware(now).astimezone()
    return Path(
        codex_home, "sessions", local.strftime("%Y/%m/%d"), f"rollout-{local:%Y-%m-%dT%H-%M-%S}-{thread_id}.jsonl"
    )


def _aware(now: datetime) -> datetime:
    if now.tzinfo is None:
        raise InvalidRequest(f"now: {now!r} has no time zone")
    return now
