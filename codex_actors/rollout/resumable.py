"""What would keep Codex from resuming a rollout whose bytes are all sound.

Source: `codex-rs/core/src/rollout/list.rs` (the id of the name is the thread's), `protocol.rs`, `SessionMeta`.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from codex_actors.protocol.ids import ThreadId
from codex_actors.rollout.lines import ordinal_of, value_of
from codex_actors.rollout.summary import name_parts

REQUIRED = ("id", "timestamp", "cwd", "originator", "cli_version")
"""The fields without which Codex does not take the meta."""

_TIME = re.compile(rb'\s*\{\s*"timestamp"\s*:\s*"([^"\\]*)"')


class Resumable:
    """Is given the sound lines of the file `path` in order; behind `end`, `problems` and `notes` say what was found."""

    def __init__(self, path: Path) -> None:
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._path = path
        self._is_first = True
        self._is_paginated = False
        self._next: int | None = None
        self._has_wrong_ordinal = False
        self._unnumbered: int | None = None
        self._newest: tuple[datetime, int] | None = None
        self._has_step_back = False

    def take(self, number: int, line: bytes) -> None:
        """A line, and where it stands, from 1."""
        if self._is_first:
            self._is_first = False
            self._take_meta(number, line)
        if self._is_paginated:
            self._take_ordinal(number, line)
        if not self._has_step_back:
            self._take_time(number, line)

    def end(self) -> None:
        """There are no more lines."""
        if self._unnumbered is not None:
            self.problems.append(f"line {self._unnumbered}: the last line of a paginated file has no ordinal")

    def _take_meta(self, number: int, line: bytes) -> None:
        value = value_of(line) or {}
        meta = value.get("payload")
        if value.get("type") != "session_meta" or not isinstance(meta, dict):
            self.problems.append(f"line {number}: the first line is no session_meta, so the file says of no thread")
            return
        missing = [name for name in REQUIRED if not isinstance(meta.get(name), str) or not meta[name]]
        if missing:
            self.problems.append(f"line {number}: the session_meta has no text in {', '.join(missing)}")
        if "id" not in missing:
            self._take_id(number, meta["id"])
        self._take_source(number, meta)
        self._is_paginated = meta.get("history_mode") == "paginated"
        base = meta.get("history_base")
        begin = base.get("end_ordinal_exclusive") if isinstance(base, dict) else 0
        self._next = begin if type(begin) is int else None

    def _take_id(self, number: int, thread_id: str) -> None:
        named = name_parts(self._path.name)
        try:
            ThreadId(thread_id)
        except ValueError:
            self.problems.append(f"line {number}: the id of the session_meta is no UUID: {thread_id[:60]!r}")
            return
        if named is not None and named[1] != thread_id.lower():
            self.problems.append(
                f"line {number}: the session_meta is of thread {thread_id}, the file's name of {named[1]}"
            )

    def _take_source(self, number: int, meta: dict[str, Any]) -> None:
        source = meta.get("source", "vscode")
        if isinstance(source, dict) and "subagent" in source:
            self.notes.append(
                f"line {number}: the source is that of an agent; Codex 0.87 refuses it, newer ones do not"
            )
        elif not isinstance(source, str):
            self.problems.append(f"line {number}: the source of the session_meta is no text")

    def _take_ordinal(self, number: int, line: bytes) -> None:
        # Codex 0.169 goes on behind a gap, a step back or a line without one, but not if the last line has none.
        ordinal = ordinal_of(line)
        self._unnumbered = number if ordinal is None else None
        if self._has_wrong_ordinal:  # those behind it would only say the same
            return
        if ordinal is None:
            self.notes.append(f"line {number}: has no ordinal, as each line of a paginated file should")
        elif self._next is not None and ordinal != self._next:
            how = "goes back" if ordinal < self._next else "leaves a gap"
            self.notes.append(f"line {number}: the ordinal {how}: {ordinal} where {self._next} is due")
        else:
            self._next = ordinal + 1
            return
        self._has_wrong_ordinal = True

    def _take_time(self, number: int, line: bytes) -> None:
        match = _TIME.match(line)
        text: Any = match[1].decode("ascii", "replace") if match else (value_of(line) or {}).get("timestamp")
        try:
            time = datetime.fromisoformat(text)
        except (TypeError, ValueError):
            return
        time = time if time.tzinfo else time.replace(tzinfo=UTC)
        if self._newest is not None and time < self._newest[0]:
            self.notes.append(f"line {number}: its time is before that of line {self._newest[1]}")
            self._has_step_back = True
        self._newest = time, number
