"""What the index keeps of a file, and how it is asked for it."""

from __future__ import annotations

import os
from dataclasses import fields
from operator import attrgetter
from pathlib import Path
from typing import Any

from codex_actors.rollout.listing import ARCHIVED, Found, ThreadQuery, cursor_key, thread_of
from codex_actors.rollout.summary import KeptThread, Stamp, Summary, name_parts, read_summary

SUMMARY = tuple(field.name for field in fields(Summary))
"""The columns that a file's content makes."""

_COLUMNS = ("path", "folder", "thread_id", "began", "archived", "mtime_ns", "size", "inode", "is_thread", *SUMMARY)
PUT = f"INSERT OR REPLACE INTO files ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"
"""Keeps a file\'s row."""

GET = (
    "SELECT path, f.thread_id, began, archived, mtime_ns, size, inode, "
    f"{', '.join(SUMMARY)}, name FROM files f LEFT JOIN names USING (thread_id) WHERE is_current"
)
"""Begins every question: the files that stand for threads."""

MARK = """UPDATE files AS f SET is_current = f.is_thread AND NOT EXISTS (
    SELECT 1 FROM files g WHERE g.thread_id = f.thread_id AND g.archived = f.archived AND g.is_thread
    AND (g.mtime_ns, g.path) > (f.mtime_ns, f.path)) WHERE f.thread_id = ?"""
"""Says which file of a thread stands for it."""


def select(query: ThreadQuery) -> tuple[str, list[Any]]:
    """What asks for one thread more than a page has: whether there is a next one."""
    conditions: list[str] = []
    values: list[Any] = []

    def want(condition: str, *wanted: Any) -> None:
        conditions.append(condition)
        values.extend(wanted)

    if query.archived is not None:
        want("archived = ?", query.archived)
    else:
        other = "SELECT 1 FROM files g WHERE g.thread_id = f.thread_id AND NOT g.archived AND g.is_current"
        want(f"(archived = 0 OR NOT EXISTS ({other}))")
    if query.parent_id is not None:
        want("parent_id = ?", query.parent_id)
    elif not query.with_agents:
        want("parent_id IS NULL AND source <> 'subagent'")
    if query.cwd is not None:
        want("cwd = ?", query.cwd)
    if query.sources:
        want(f"source IN ({', '.join('?' * len(query.sources))})", *query.sources)
    if query.search is not None:
        want("holds(?, preview, name)", query.search.casefold())
    column = "began" if query.sort_by == "created" else "mtime_ns"
    if query.cursor is not None:
        want(f"({column}, f.thread_id) < (?, ?)", *cursor_key(query.cursor, query.sort_by))
    filters = "".join(f" AND {condition}" for condition in conditions)
    return f"{GET}{filters} ORDER BY {column} DESC, f.thread_id DESC LIMIT ?", [*values, query.limit + 1]


def row_of(codex_home: Path, path: bytes) -> tuple[Any, ...] | None:
    """What is kept of the file at `path`, relative to the home, in the order of `PUT`; None where there is none."""
    full = codex_home / os.fsdecode(path)
    parts = name_parts(full.name)
    if parts is None:
        return None
    try:
        stamp, summary = read_summary(full)
    except FileNotFoundError:
        return None
    except OSError:
        try:
            stamp, summary = Stamp.of(os.stat(full)), None
        except OSError:
            return None
    said = _NOTHING_SAID if summary is None else _said(summary)
    is_archived = path.startswith(os.fsencode(ARCHIVED))
    head = (path, os.path.dirname(path), parts[1], parts[0], is_archived)
    return (*head, *stamp.values, summary is not None, *said)


def thread_in(codex_home: Path, row: tuple[Any, ...]) -> tuple[Found, KeptThread]:
    """What a row, in the order of `GET`, says."""
    path, thread_id, began, archived, mtime_ns, size, inode, *said, name = row
    stamp = Stamp(mtime_ns, size, inode)
    file = Found(codex_home / os.fsdecode(path), thread_id, began, stamp, bool(archived))
    return file, thread_of(file, Summary(*said), name)


_said = attrgetter(*SUMMARY)
_NOTHING_SAID = (None,) * len(SUMMARY)
