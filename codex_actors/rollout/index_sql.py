"""What the index is told and asked, as text. Pure."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from codex_actors.rollout.listing import ThreadQuery, cursor_key
from codex_actors.rollout.summary import Summary

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
