"""Writing rollout files: whole lines, in order, each once, whatever the disk says in between.

The law of this file: after every write a rollout ends in a whole line, or is cut back to one; what could not be written
waits in memory, in front of what comes later for the same file. One OS thread uses a writer.
Source: `codex-rs/core/src/rollout/recorder.rs`, `RolloutRecorder`; that of the seed loses what it could not write.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

from codex_actors.config import Durability
from codex_actors.errors import InvalidRequest, RolloutError, UnsupportedOperation, WriterConflict
from codex_actors.protocol.events import EventMsg
from codex_actors.protocol.history import (
    Compacted,
    CompactedLine,
    EventMsgLine,
    InputAccepted,
    InputAcceptedLine,
    ResponseItemLine,
    RolloutItem,
    SessionMeta,
    SessionMetaLine,
    TurnContextItem,
    TurnContextLine,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import ResponseItem, Verbatim
from codex_actors.rollout.claims import Claims, keep_refused

_LOGGER = logging.getLogger("codex_actors")

Recordable: TypeAlias = (
    RolloutItem | SessionMeta | ResponseItem | Compacted | TurnContextItem | EventMsg | InputAccepted
)
"""What makes a line: the line itself, or its payload alone (faster). A `Verbatim` is a whole line; one that is a
payload stands in its line (`ResponseItemLine(payload=...)`)."""

MAX_OPEN_FILES = 128
"""How many rollouts a writer keeps open; the one used longest ago is closed first."""

_LINE_START = b'{"timestamp":"'
_TAIL_BYTES = 4096
_LINE_TIMESTAMP = re.compile(rb'\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"')


@dataclass(frozen=True, slots=True)
class Append:
    """Lines for the end of one file, all with one `timestamp` (as `Clock.timestamp` makes it).

    Bytes are a line that `encode_body` has made, or a whole line, which keeps its own timestamp. `create`: these are the
    first lines of a file that must not exist yet. Otherwise it must exist. Without items it only tries again what waits
    for the path. `release`: the thread has ended; once all is written, its file is closed and anybody may become its
    writer.
    """

    path: Path
    timestamp: str
    items: tuple[Recordable | bytes, ...]
    create: bool
    release: bool = False


@dataclass(slots=True)
class _OpenFile:
    fd: int
    inode: int
    size: int
    timestamp: str
    torn: bool
    """Whether the last line lacks its newline."""


@dataclass(slots=True)
class _Waiting:
    """What a path is owed."""

    lines: list[bytes] = field(default_factory=list)
    timestamp: str = ""
    create: bool = False
    head: bytes = b""
    """The first line of a file that is not made yet, as no other line could be put into JSON."""
    cut_to: tuple[int, int] | None = None
    """Inode, and where the last whole line ends in it, if what stands behind that could not be cut off yet."""
    changed_folders: list[Path] = field(default_factory=list)
    """Folders whose new entries have to reach the disk together with the lines."""


class RolloutWriter:
    """Appends to any number of rollouts.

    Runs in: one OS thread, which may block on the disk.
    """

    def __init__(self, durability: Durability, claims: Claims | None = None) -> None:
        """`claims` says which rollouts are this writer's to write; None trusts that nobody else writes them."""
        self._fsync = durability == "fsync"
        self._files: OrderedDict[Path, _OpenFile] = OrderedDict()
        self._waiting: dict[Path, _Waiting] = {}
        self._claims = claims
        self._closed = False

    def write(self, batch: Sequence[Append]) -> list[RolloutError | None]:
        """One result for each of `batch`, in its order: None once its lines are as durable as asked for.

        All lines of one file go out in one write (and one fsync). After an error the lines wait: the next `Append` for
        that path writes them first, and all that waits for a path succeeds or fails together. Only lines that cannot
        be put into JSON are refused for good; their error says so. Of a file's first lines the very first is kept even
        then, to stand in front of what comes next: without it nobody could read the file again.

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
            appends = [batch[index] for index in indexes]
            self._write_path(path, appends, indexes, results)
        if self._claims is not None:
            self._release([append.path for append in batch if append.release])
        return results

    def _release(self, paths: list[Path]) -> None:
        assert self._claims is not None
        ended = [path for path in paths if path not in self._waiting]
        for path in ended:
            self._close(path)
        self._claims.release(*ended)

    def waiting(self) -> dict[Path, int]:
        """How many lines each path is owed; paths that are owed nothing are not in it."""
        return {path: len(waiting.lines) for path, waiting in self._waiting.items() if waiting.lines}

    def close(self) -> None:
        """Tries once more what waits, then closes every file. What still waits is logged, and stays in `waiting()`."""
        if self._closed:
            return
        for path in list(self._waiting):
            self._write_path(path, [], [], [])
        for path, lines in self.waiting().items():
            _LOGGER.error("rollout %s: %d line(s) could not be written", path, lines)
        self._closed = True
        for path in list(self._files):
            self._close(path)
        if self._claims is not None:
            self._claims.close()

    def _write_path(
        self, path: Path, appends: list[Append], indexes: list[int], results: list[RolloutError | None]
    ) -> None:
        waiting = self._waiting.get(path)
        conflict = None if self._claims is None else self._claims.conflict(path)
        if (
            conflict is not None
        ):  # also for an append without items, whose thread must not take it for an acknowledgement
            for index in indexes:
                results[index] = conflict
        if waiting is None:
            if not any(append.items for append in appends):
                return
            waiting = _Waiting()
        # Before the file is made: one without its first line would be there for good.
        encoded = [
            (index, append.timestamp, bodies)
            for append, index in zip(appends, indexes, strict=True)
            if (bodies := _bodies(append, waiting, index, results)) is not None
        ]
        if not waiting.lines and not any(bodies for _, _, bodies in encoded):
            if waiting.head:
                self._waiting[path] = waiting
            return
        file: _OpenFile | None = None
        failure: RolloutError | None = None
        try:
            file = self._open(path, waiting)
            waiting.timestamp = max(waiting.timestamp, file.timestamp)
        except (OSError, ValueError, RolloutError) as error:
            # ValueError: a NUL byte in the path.
            failure = _failure(path, error)
        for _, timestamp, bodies in encoded:
            _take(timestamp, bodies, waiting)
        if file is not None and waiting.lines:
            try:
                self._append(path, file, waiting)
            except (OSError, RolloutError) as error:
                failure = _failure(path, error)
                # What went wrong may be the descriptor's (a mount that went away): the next attempt gets a new one.
                self._close(path)
        if failure is None:
            self._waiting.pop(path, None)
            return
        for index, _, _ in encoded:
            results[index] = failure
        if isinstance(failure, WriterConflict):
            self._refuse(path, waiting.lines)
        elif waiting.lines:
            self._waiting[path] = waiting

    def _refuse(self, path: Path, lines: list[bytes]) -> None:
        """Nobody will write these: they are kept beside the rollout."""
        self._waiting.pop(path, None)
        self._close(path)
        if not lines:
            return
        try:
            keep_refused(path, lines)
            _LOGGER.warning(
                "rollout %s: another writer has it; %d refused line(s) are in its .fenced", path, len(lines)
            )
        except OSError as error:
            _LOGGER.error("rollout %s: another writer has it; %d line(s) are lost (%s)", path, len(lines), error)

    def _open(self, path: Path, waiting: _Waiting) -> _OpenFile:
        file = None if waiting.create else self._files.get(path)
        if file is not None:
            stat = os.fstat(file.fd)
            if stat.st_nlink == 0:
                # Somebody deleted the file: what we wrote to it would vanish without a word. Opening says so.
                self._close(path)
                file = None
            else:
                file.size = stat.st_size
                self._files.move_to_end(path)
        if file is None:
            file = self._files[path] = self._open_new(path, waiting)
            if len(self._files) > MAX_OPEN_FILES:
                self._close(next(iter(self._files)))
        return file

    def _open_new(self, path: Path, waiting: _Waiting) -> _OpenFile:
        if self._claims is not None:
            self._claims.open(path)
        if waiting.create:
            fd = _create(path, waiting.changed_folders)
            waiting.create = False
            return _OpenFile(fd, os.fstat(fd).st_ino, size=0, timestamp="", torn=False)
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            if waiting.cut_to is not None:
                inode, end = waiting.cut_to
                stat = os.fstat(fd)
                if stat.st_ino == inode and stat.st_size > end:
                    os.ftruncate(fd, end)
                waiting.cut_to = None
            stat = os.fstat(fd)
            timestamp, torn = _read_tail(fd, stat.st_size)
            if self._claims is not None:
                self._claims.check(path)
        except BaseException:
            os.close(fd)
            raise
        return _OpenFile(fd, stat.st_ino, stat.st_size, timestamp, torn)

    def _append(self, path: Path, file: _OpenFile, waiting: _Waiting) -> None:
        lines = waiting.lines
        try:
            _write_all(file.fd, b"".join([b"\n", *lines] if file.torn else lines))
            if self._fsync:
                os.fsync(file.fd)
                for folder in waiting.changed_folders:
                    _fsync_folder(folder)
            if self._claims is not None:
                self._claims.check_written(path, file.inode)
        except WriterConflict:
            raise  # the file is not ours to cut
        except (OSError, RolloutError):
            # Also after a failed fsync: the kernel may have forgotten the pages; only writing anew brings them back.
            try:
                os.ftruncate(file.fd, file.size)
            except OSError:
                waiting.cut_to = (os.fstat(file.fd).st_ino, file.size)
            raise
        file.torn = False
        file.timestamp = waiting.timestamp

    def _close(self, path: Path) -> None:
        file = self._files.pop(path, None)
        if file is not None:
            os.close(file.fd)
        if self._claims is not None:
            self._claims.closed(path)


def encode_line(timestamp: str, item: Recordable | bytes) -> bytes:
    """The line of `item`, with its newline: `{"timestamp":...,"type":...,"payload":{...}}`. A whole line stays as it is.

    Raises:
        ValueError: as `encode_body`.
    """
    if isinstance(item, bytes) and item.startswith(b"{"):
        return item
    return _LINE_START + timestamp.encode() + (item if isinstance(item, bytes) else encode_body(item))


def encode_body(item: Recordable) -> bytes:
    """What follows the timestamp's digits in the line of `item`: a line whose timestamp is not known yet.

    Fields that are None are left out. A `Verbatim` keeps all it has but `timestamp` and `ordinal`: both belong to the
    file it was read from. Half a surrogate pair, which no JSON reader takes, becomes U+FFFD.

    Raises:
        ValueError: `item` holds something that is not JSON, or makes no line at all.
    """
    head = _HEADS.get(type(item))
    if head is not None:
        return head + _json_of(item) + b"}\n"
    if isinstance(item, Verbatim):
        rest = {key: value for key, value in item.raw.items() if key not in ("timestamp", "ordinal")}
        return (b'",' if rest else b'"') + _json_of(Verbatim(raw=rest))[1:] + b"\n"
    head = _LINE_HEADS.get(type(item))
    if head is None:
        raise ValueError(f"{type(item).__name__} makes no line")
    line: Any = item
    submission = b""
    if isinstance(item, ResponseItemLine) and item.submission_id is not None:
        submission = b',"submission_id":' + to_json(item.submission_id)
    return head + _json_of(line.payload) + submission + b"}\n"


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


def _members(union: Any) -> list[type[BaseModel]]:
    """The classes of one of the protocol's tagged unions, but `Verbatim`."""
    members = [get_args(member)[0] for member in get_args(get_args(union)[0])]
    return [member for member in members if member is not Verbatim]


def _head(tag: str) -> bytes:
    return b'","type":"%b","payload":' % tag.encode()


_HEADS: dict[type, bytes] = {
    SessionMeta: _head("session_meta"),
    Compacted: _head("compacted"),
    TurnContextItem: _head("turn_context"),
    InputAccepted: _head("codex_actors"),
    **dict.fromkeys(_members(ResponseItem), _head("response_item")),
    **dict.fromkeys(_members(EventMsg), _head("event_msg")),
}
"""What stands between timestamp and payload, by the payload's class."""

_LINE_HEADS: dict[type, bytes] = {
    line: _head(line.model_fields["type"].default)
    for line in (SessionMetaLine, ResponseItemLine, CompactedLine, TurnContextLine, EventMsgLine, InputAcceptedLine)
}


def _json_of(model: Any) -> bytes:
    try:
        # Half the price of model_dump_json, which builds the text first.
        encoded: bytes = type(model).__pydantic_serializer__.to_json(model, exclude_none=True)
        return encoded
    except AttributeError:
        raise ValueError(f"{type(model).__name__} is no payload") from None
    except PydanticSerializationError:
        value = model.model_dump(mode="json", exclude_none=True)
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()


def _bodies(append: Append, waiting: _Waiting, index: int, results: list[RolloutError | None]) -> list[bytes] | None:
    """The lines of `append` without their timestamps; None where they are no JSON, as `results` then says."""
    bodies: list[bytes] = []
    try:
        for item in append.items:
            bodies.append(item if isinstance(item, bytes) else encode_body(item))
    except (ValueError, TypeError, RecursionError) as error:
        results[index] = RolloutError(append.path, f"a line cannot be put into JSON ({error})")
        if append.create and bodies:
            waiting.create, waiting.timestamp = True, append.timestamp
            waiting.head = encode_line(append.timestamp, bodies[0])
        return None
    waiting.create = waiting.create or append.create
    return bodies


def _take(timestamp: str, bodies: list[bytes], waiting: _Waiting) -> None:
    """Puts the lines into `waiting`, behind a head that waits for some."""
    waiting.timestamp = max(waiting.timestamp, timestamp)
    if waiting.head and bodies:
        waiting.lines.append(waiting.head)
        waiting.head = b""
    for body in bodies:
        if body.startswith(b"{") and (match := _LINE_TIMESTAMP.match(body)) is not None:
            waiting.timestamp = max(waiting.timestamp, match[1].decode())
        waiting.lines.append(encode_line(waiting.timestamp, body))


def _create(path: Path, changed_folders: list[Path]) -> int:
    """The descriptor of the new, empty file `path`. Folders that got an entry are added to `changed_folders`."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(path, flags, 0o600)
    except FileNotFoundError:
        _make_folders(path.parent, changed_folders)
        fd = os.open(path, flags, 0o600)
    changed_folders.append(path.parent)
    return fd


def _make_folders(folder: Path, changed_folders: list[Path]) -> None:
    """Makes `folder` and what leads to it, each 0700 (`Path.mkdir` does that for the last one only)."""
    for part in (*reversed(folder.parents), folder):
        if not part.is_dir():
            # Somebody else may make the same day's folder at this moment.
            with suppress(FileExistsError):
                os.mkdir(part, 0o700)
                changed_folders.append(part.parent)


def _read_tail(fd: int, size: int) -> tuple[str, bool]:
    """The timestamp of the last line ("" where it has none like ours), and whether that line lacks its newline."""
    length = min(_TAIL_BYTES, size)
    tail = os.pread(fd, length, size - length)
    while length < size and tail.rfind(b"\n", 0, -1) < 0:
        length = min(4 * length, size)
        tail = os.pread(fd, length, size - length)
    match = _LINE_TIMESTAMP.match(tail, tail.rfind(b"\n", 0, -1) + 1)
    return (match[1].decode() if match else ""), not tail.endswith(b"\n") and size > 0


def _write_all(fd: int, data: bytes) -> None:
    written = os.write(fd, data)
    # A short write on a full disk: the next attempt says why.
    while written < len(data):
        written += os.write(fd, memoryview(data)[written:])


def _fsync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _failure(path: Path, error: OSError | ValueError | RolloutError) -> RolloutError:
    if isinstance(error, RolloutError):
        return error
    return RolloutError(path, f"cannot write the rollout ({getattr(error, 'strerror', None) or error})")
