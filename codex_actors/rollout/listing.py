"""The threads of a home: what is asked for, and the plain answer, from the files alone.

It reads no more files than the page needs, keeps nothing, and writes nothing. `index` gives the same answer faster.
Source: `codex-rs/core/src/rollout/list.rs`, `get_threads`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

from codex_actors.errors import InvalidRequest, RolloutError, ThreadNotFound
from codex_actors.rollout.names import read_names
from codex_actors.rollout.summary import KeptThread, Stamp, Summary, name_parts, read_summary

SortBy = Literal["created", "updated"]
"""`created`: by the time in the file's name. `updated`: by when it was last written. Both newest first."""

MOST = 1000
"""How many threads one page may have."""

SESSIONS, ARCHIVED = "sessions", "archived_sessions"
"""The folders of a home; the first one has a folder for each day."""

_CURSOR = re.compile(r"([0-9T:-]+)\|([0-9a-f-]{36})")


@dataclass(frozen=True, slots=True)
class ThreadQuery:
    """Which threads to list.

    Attributes:
        limit: How many at most, 1 to 1,000.
        cursor: The `next_cursor` of the page before, with the same `sort_by`; None begins with the newest.
        sort_by: `created` or `updated`, newest first.
        cwd: Only those of this folder, as it is recorded.
        sources: Only those with one of these sources; none means any.
        archived: False for those that are not archived, True for those that are, None for both.
        search: Only those with this text in the preview or the name; case does not count.
        parent_id: Only those that this thread has spawned.
        with_agents: Also those that other threads have spawned (always so with a `parent_id`).
    """

    limit: int = 25
    cursor: str | None = None
    sort_by: SortBy = "updated"
    cwd: str | None = None
    sources: tuple[str, ...] = ()
    archived: bool | None = False
    search: str | None = None
    parent_id: str | None = None
    with_agents: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.limit, int) or isinstance(self.limit, bool) or not 1 <= self.limit <= MOST:
            raise InvalidRequest(f"ThreadQuery.limit: {self.limit!r} is not a whole number from 1 to {MOST}")
        if self.sort_by not in get_args(SortBy):
            raise InvalidRequest(f"ThreadQuery.sort_by: {self.sort_by!r} is not created or updated")
        if self.cursor is not None:
            cursor_key(self.cursor, self.sort_by)
        if isinstance(self.sources, str) or not all(isinstance(source, str) for source in self.sources):
            raise InvalidRequest(f"ThreadQuery.sources: {self.sources!r} is not a tuple of words")
        for name in ("cwd", "search", "parent_id"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise InvalidRequest(f"ThreadQuery.{name}: {value!r} is not text")


@dataclass(frozen=True, slots=True)
class ThreadPage:
    """Some threads, newest first. `next_cursor` leads to the next page; None where there is none."""

    threads: tuple[KeptThread, ...]
    next_cursor: str | None


@dataclass(frozen=True, slots=True)
class Found:
    """A rollout file. `began` is the time in its name."""

    path: Path
    thread_id: str
    began: str
    stamp: Stamp
    is_archived: bool

    def key(self, sort_by: SortBy) -> tuple[str | int, str]:
        """What it is sorted by."""
        return (self.began if sort_by == "created" else self.stamp.mtime_ns), self.thread_id


Reads = Callable[[Found], Summary | None]


def list_threads(codex_home: Path, query: ThreadQuery) -> ThreadPage:
    """A page of the threads that are kept in a home. A folder that is missing has none.

    Of a thread with several files (newer Codex begins another when it takes turns back) the one written last counts. A file
    without a meta near its beginning is left out, and so is one that is removed meanwhile.

    Raises:
        RolloutError: a folder there cannot be read.
    """
    threads: list[KeptThread] = []
    last: Found | None = None
    for file, thread in _threads(codex_home, query):
        if len(threads) == query.limit and last is not None:
            return ThreadPage(tuple(threads), cursor_of(last.key(query.sort_by)))
        threads.append(thread)
        last = file
    return ThreadPage(tuple(threads), None)


def all_threads(codex_home: Path, query: ThreadQuery | None = None) -> Iterator[KeptThread]:
    """All that `query` asks for, whatever its `limit`; without one every thread and agent, archived or not.

    Raises:
        RolloutError: a folder there cannot be read.
    """
    for _, thread in _threads(codex_home, query or ThreadQuery(archived=None, with_agents=True)):
        yield thread


def _threads(codex_home: Path, query: ThreadQuery) -> Iterator[tuple[Found, KeptThread]]:
    names = read_names(codex_home)
    after = None if query.cursor is None else cursor_key(query.cursor, query.sort_by)
    files = current_files(scan(codex_home, archived=query.archived), summary_or_none)
    for file in sorted(files, key=lambda file: file.key(query.sort_by), reverse=True):
        if after is not None and file.key(query.sort_by) >= after:
            continue
        summary = summary_or_none(file)
        if summary is not None:
            thread = thread_of(file, summary, names.get(file.thread_id))
            if matches(query, thread):
                yield file, thread


def find_thread(codex_home: Path, which: str) -> KeptThread:
    """The thread with this id, name, or unique begin of its id; one that is not archived goes before one that is.

    Reads no file but the one that is found, and the names.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several; it names them.
        RolloutError: a folder there, or the names, cannot be read.
    """
    names = read_names(codex_home)
    file = chosen(which, current_files(scan(codex_home, archived=None), summary_or_none), names)
    summary = summary_or_none(file)
    if summary is None:
        raise RolloutError(file.path, "the rollout has no meta near its beginning, or cannot be read")
    return thread_of(file, summary, names.get(file.thread_id))


def chosen(which: str, files: Iterable[Found], names: dict[str, str]) -> Found:
    """As `find_thread`, among these files.

    Raises:
        ThreadNotFound: there is none.
        InvalidRequest: there are several; it names them.
    """
    if not isinstance(which, str) or not which.strip():
        raise InvalidRequest(f"thread: {which!r} is no id, begin of an id, or name")
    by_id = {file.thread_id: file for file in files}
    wanted = which.strip().lower()
    if wanted in by_id:
        return by_id[wanted]
    ids = [each for each in by_id if names.get(each) == which.strip()]
    ids = ids or [each for each in by_id if each.startswith(wanted)]
    if not ids:
        raise ThreadNotFound(which)
    if len(ids) > 1:
        more = f" and {len(ids) - 5} more" if len(ids) > 5 else ""
        raise InvalidRequest(f"thread: {which!r} may be {', '.join(sorted(ids)[:5])}{more}; give more of the id")
    return by_id[ids[0]]


def scan(codex_home: Path, *, archived: bool | None) -> Iterator[Found]:
    """Every file that is named as a rollout, in no order; links to folders are not followed.

    Raises:
        RolloutError: a folder cannot be read.
    """
    for is_archived, root in ((False, SESSIONS), (True, ARCHIVED)):
        if archived is None or archived is is_archived:
            folders = [os.path.join(codex_home, root)]
            while folders:
                folder = folders.pop()
                below, files = entries(folder)
                folders += [os.path.join(folder, name) for name in below]
                for name, (began, thread_id), stamp in files:
                    yield Found(Path(folder, name), thread_id, began, stamp, is_archived)


Entry = tuple[str, tuple[str, str], Stamp]
"""A rollout in a folder: its name, the parts of that (`summary.name_parts`), and what it is now."""


def entries(folder: str) -> tuple[list[str], list[Entry]]:
    """The names of the folders in a folder, and the rollouts in it; nothing where it is none.

    Raises:
        RolloutError: it cannot be read.
    """
    folders: list[str] = []
    files: list[Entry] = []
    try:
        with os.scandir(folder) as found:
            for entry in found:
                parts = name_parts(entry.name)
                if parts is not None:
                    with suppress(OSError):  # it was removed meanwhile
                        files.append((entry.name, parts, Stamp.of(entry.stat())))
                elif entry.is_dir(follow_symlinks=False):
                    folders.append(entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return [], []
    except OSError as error:
        raise RolloutError(folder, f"cannot look for rollouts ({error.strerror})") from error
    return folders, files


def current_files(files: Iterable[Found], read: Reads) -> list[Found]:
    """One file for each thread: of several that can be read, one that is not archived, and was written last."""
    groups: dict[str, list[Found]] = {}
    for file in files:
        groups.setdefault(file.thread_id, []).append(file)
    current: list[Found] = []
    for group in groups.values():
        if len(group) > 1:
            group = [file for file in group if read(file) is not None] or group
        current.append(max(group, key=_currency))
    return current


def _currency(file: Found) -> tuple[bool, int, bytes]:
    return not file.is_archived, file.stamp.mtime_ns, os.fsencode(file.path)


def summary_or_none(file: Found) -> Summary | None:
    """What a file says; None where it cannot be read."""
    try:
        return read_summary(file.path)[1]
    except OSError:
        return None


def thread_of(file: Found, summary: Summary, name: str | None) -> KeptThread:
    """A row of a list."""
    return KeptThread(
        id=file.thread_id,
        path=file.path,
        created=datetime.fromtimestamp(summary.created_ms / 1000, UTC),
        updated=datetime.fromtimestamp(file.stamp.mtime_ns / 1e9, UTC),
        size_bytes=file.stamp.size,
        is_archived=file.is_archived,
        cwd=summary.cwd,
        source=summary.source,
        model=summary.model,
        preview=summary.preview,
        name=name,
        parent_id=summary.parent_id,
        forked_from_id=summary.forked_from_id,
        agent_path=summary.agent_path,
        agent_nickname=summary.agent_nickname,
        status=summary.status,
        tokens=summary.tokens,
    )


def matches(query: ThreadQuery, thread: KeptThread) -> bool:
    """Whether `query` asks for the thread, its `archived` and `cursor` aside."""
    if query.parent_id is not None:
        if thread.parent_id != query.parent_id:
            return False
    elif not query.with_agents and is_agent(thread.parent_id, thread.source):
        return False
    if query.cwd is not None and thread.cwd != query.cwd:
        return False
    if query.sources and thread.source not in query.sources:
        return False
    return query.search is None or holds(query.search.casefold(), thread.preview, thread.name)


def is_agent(parent_id: str | None, source: str) -> bool:
    """Whether another thread spawned it."""
    return parent_id is not None or source == "subagent"


def holds(folded: str, preview: str, name: str | None) -> bool:
    """Whether one of the texts holds `folded`, which has been case-folded."""
    return folded in preview.casefold() or (name is not None and folded in name.casefold())


def cursor_of(key: tuple[str | int, str]) -> str:
    """The cursor behind a thread with this key. Source: `list.rs`, `Cursor` (`<time>|<uuid>`)."""
    return f"{key[0]}|{key[1]}"


def cursor_key(cursor: str, sort_by: SortBy) -> tuple[str | int, str]:
    """What the cursor was made of.

    Raises:
        InvalidRequest: it was made for another order, or is none.
    """
    match = _CURSOR.fullmatch(cursor) if isinstance(cursor, str) else None
    if match is None or match[1].isdigit() != (sort_by == "updated"):
        raise InvalidRequest(f"cursor: {cursor!r} is not the next_cursor of a page sorted by {sort_by}")
    return (int(match[1]) if sort_by == "updated" else match[1]), match[2]
