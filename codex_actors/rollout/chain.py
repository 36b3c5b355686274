"""Where the lines of a thread stand: a paginated fork, or a revert, begins with a part of another file.

Source: `history_base` in the meta line, `{"thread_id", "end_ordinal_exclusive", "end_byte_offset"}`; its file is looked for
by the thread's id, in the same home and beside the file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codex_actors.errors import RolloutError
from codex_actors.protocol.history import Segment
from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.lines import file_lines, first_line, open_file, ordinal_of, size_of, value_of
from codex_actors.rollout.reader import rollout_paths_of

MAX_SEGMENTS = 1_000
"""A chain of more files is taken for a circle."""

_TAIL_BYTES = 1 << 15


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A thread of a lineage.

    Attributes:
        thread_id: Its id.
        path: Its rollout; None where it has none, or none that was found.
        forked_from_id: The thread that it was forked from; None for a root, and where its file was not found.
        forked_from_lines: How many of that thread's lines it began with (of a paginated one: below which ordinal); None
            where that was not recorded.
    """

    thread_id: ThreadId
    path: Path | None
    forked_from_id: ThreadId | None
    forked_from_lines: int | None


def segments_of(path: Path, end: int | None = None) -> tuple[Segment, ...]:
    """The files that hold the lines of the thread in `path`, oldest first; `path` is the last, up to `end` (None: all).

    Raises:
        RolloutError: a file cannot be read, or one that a `history_base` names is missing.
    """
    segments = [Segment(path, size_of(path) if end is None else end)]
    base = _history_base(path)
    while base is not None:
        segment = _find(segments[-1].path, base)
        segments.append(segment)
        if len(segments) > MAX_SEGMENTS or any(segment.path == other.path for other in segments[:-1]):
            raise RolloutError(path, "the chain of its `history_base` never ends")
        base = _history_base(segment.path)
    return tuple(reversed(segments))


def readable_segments(path: Path) -> tuple[Segment, ...]:
    """As `segments_of`, of a file that has a meta with a thread id.

    Raises:
        RolloutError: it has none, is empty, or as `segments_of`.
    """
    segments = segments_of(path)
    if not first_line(path):
        raise RolloutError(path, "empty session file")
    return segments


def ancestor_in(path: Path) -> Ancestor:
    """What the meta of a file says of where its thread comes from.

    Raises:
        RolloutError: it cannot be read, or its first line is no meta with a thread id.
    """
    meta = meta_of(path)
    if meta is None or not isinstance(meta.get("id"), str) or not _is_id(meta["id"]):
        raise RolloutError(path, "failed to parse thread ID from rollout file")
    parent, lines = meta.get("forked_from_id"), meta.get("forked_from_lines")
    if lines is None:
        lines = meta.get("forked_from_ordinal_exclusive")
    return Ancestor(
        ThreadId(meta["id"]),
        path,
        ThreadId(parent) if isinstance(parent, str) and _is_id(parent) else None,
        lines if type(lines) is int else None,
    )


def path_of_thread(path: Path, thread_id: ThreadId) -> Path | None:
    """A rollout of the thread in the home that `path` is in, or beside it; or None.

    Raises:
        RolloutError: a folder cannot be read.
    """
    return next(_candidates(path, thread_id), None)


def meta_of(path: Path) -> dict[str, Any] | None:
    """The payload of the meta in the first line, or None where that is none.

    Raises:
        RolloutError: the file cannot be read.
    """
    value = value_of(first_line(path))
    payload = value.get("payload") if value is not None and value.get("type") == "session_meta" else None
    return payload if isinstance(payload, dict) else None


def _history_base(path: Path) -> dict[str, Any] | None:
    meta = meta_of(path)
    base = None if meta is None else meta.get("history_base")
    if base is None:
        return None
    names = ("end_ordinal_exclusive", "end_byte_offset")
    if not isinstance(base, dict) or not isinstance(base.get("thread_id"), str):
        raise RolloutError(path, "its `history_base` names no thread")
    if not any(type(base.get(name)) is int for name in names):
        raise RolloutError(path, f"its `history_base` has neither {names[0]} nor {names[1]}")
    return base


def _find(path: Path, base: dict[str, Any]) -> Segment:
    """The file that `base` means. A thread that was reverted has several: hence by the byte offset, before by the ordinal."""
    candidates = list(_candidates(path, base["thread_id"]))
    for end_in in (_end_at_offset, _end_at_ordinal):
        for candidate in candidates:
            end = end_in(candidate, base)
            if end is not None:
                return Segment(candidate, end)
    raise RolloutError(
        path,
        f"the rollout of thread {base['thread_id']}, which its history begins with, is missing (up to ordinal "
        f"{base.get('end_ordinal_exclusive')}); put it into the same home or beside this file",
    )


def _candidates(path: Path, thread_id: str) -> Iterator[Path]:
    """The other files of the thread: by their names in the home, then by their first line beside `path`."""
    seen = {path}
    home = home_of(path)
    named = [] if home is None else rollout_paths_of(home, ThreadId(thread_id)) if _is_id(thread_id) else []
    for candidate in named:
        if candidate not in seen:
            seen.add(candidate)
            yield candidate
    for candidate in sorted(path.parent.glob("*.jsonl")):
        if candidate not in seen:
            try:
                meta = meta_of(candidate)
            except RolloutError:
                continue  # another file's trouble: this one is still looked for
            if meta is not None and meta.get("id") == thread_id:
                yield candidate


def home_of(path: Path) -> Path | None:
    """The home that `path` is in, or None."""
    for folder in path.parents:
        if folder.name in ("sessions", "archived_sessions"):
            return folder.parent
    return None


def _end_at_offset(path: Path, base: dict[str, Any]) -> int | None:
    """The byte offset of `base`, where a line with the right ordinal ends there in `path`."""
    end, ordinal = base.get("end_byte_offset"), base.get("end_ordinal_exclusive")
    if type(end) is not int or not 0 < end <= size_of(path):
        return None
    with _reading(path) as fd:
        if os.pread(fd, 1, end - 1) != b"\n":
            return None
        return end if type(ordinal) is not int or ordinal_of(_line_before(fd, end)) == ordinal - 1 else None


def _end_at_ordinal(path: Path, base: dict[str, Any]) -> int | None:
    """Where the line with the last ordinal of `base` ends in `path`, or None where it has none."""
    ordinal = base.get("end_ordinal_exclusive")
    if type(ordinal) is not int:
        return None
    with _reading(path) as fd:
        for offset, line in file_lines(fd, 0, size_of(path)):
            if ordinal_of(line) == ordinal - 1:
                return offset + len(line) + 1
    return None


@contextmanager
def _reading(path: Path) -> Iterator[int]:
    fd = open_file(path)
    try:
        yield fd
    except OSError as error:
        raise RolloutError(path, f"cannot read the rollout ({error.strerror})") from error
    finally:
        os.close(fd)


def _line_before(fd: int, offset: int) -> bytes:
    """The line whose newline stands right before `offset`."""
    length = min(_TAIL_BYTES, offset)
    tail = os.pread(fd, length, offset - length)
    while length < offset and tail.rfind(b"\n", 0, -1) < 0:
        length = min(4 * length, offset)
        tail = os.pread(fd, length, offset - length)
    return tail[tail.rfind(b"\n", 0, -1) + 1 : -1]


def _is_id(text: str) -> bool:
    try:
        ThreadId(text)
    except ValueError:
        return False
    return True
