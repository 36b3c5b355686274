"""The threads of a home, from the names, times and first lines of its rollouts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codex_actors.errors import RolloutError
from codex_actors.protocol.items import RESPONSE_ITEM, Message
from codex_actors.rollout.reader import thread_id_of_path
from codex_actors.rollout.truncation import is_user_message

HEAD_BYTES = 1 << 20
"""How far into a file its first user message is looked for."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A thread that is kept.

    Attributes:
        updated: When its file was last written, UTC.
        preview: What its user said first, in one line; empty where that is not near the beginning.
    """

    id: str
    updated: datetime
    cwd: str
    preview: str
    path: Path

    def to_wire(self) -> dict[str, str]:
        """The JSON object of `ls --json`."""
        updated = self.updated.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {
            "id": self.id,
            "updated": updated,
            "cwd": self.cwd,
            "preview": self.preview,
            "path": os.fsencode(self.path).decode(errors="replace"),
        }


def kept_threads(home: Path, *, with_agents: bool = False) -> Iterator[Kept]:
    """The threads below `<home>/sessions`, newest first; those of agents only `with_agents`.

    A file without a readable first line is nobody's and left out. Reads a file only when it is asked for the next one.

    Raises:
        RolloutError: a folder there cannot be read.
    """
    for written_s, path in sorted(_files(home / "sessions"), reverse=True):
        thread = _read_head(path, written_s, with_agents)
        if thread is not None:
            yield thread


def _files(root: Path) -> Iterator[tuple[float, Path]]:
    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise RolloutError(error.filename or root, f"cannot look for rollouts ({error.strerror})") from error

    for folder, _, names in os.walk(root, onerror=refuse):
        for path in (Path(folder, name) for name in names):
            if thread_id_of_path(path) is not None:
                try:
                    yield path.stat().st_mtime, path
                except OSError:  # it was removed meanwhile
                    continue


def _read_head(path: Path, written_s: float, with_agents: bool) -> Kept | None:
    try:
        with path.open("rb") as file:
            lines = file.read(HEAD_BYTES).split(b"\n")
    except OSError:
        return None
    meta = _payload(lines[0], "session_meta")
    if meta is None or not isinstance(meta.get("id"), str):
        return None
    if not with_agents and meta.get("parent_thread_id") is not None:
        return None
    said = (_said(line) for line in lines[1:])
    preview = next((text for text in said if text is not None), "")
    updated = datetime.fromtimestamp(written_s, UTC)
    return Kept(meta["id"], updated, str(meta.get("cwd") or ""), " ".join(preview.split()), path)


def _said(line: bytes) -> str | None:
    """What a user says in this line: as an event, or as the item that newer Codex versions write alone."""
    if b'"user' not in line:  # most lines are something else, and long
        return None
    payload = _payload(line, "event_msg")
    if payload is not None and payload.get("type") == "user_message":
        text = payload.get("message")
        return text if isinstance(text, str) else None
    payload = _payload(line, "response_item")
    try:
        item = None if payload is None else RESPONSE_ITEM.validate_python(payload)
    except (ValidationError, TypeError):
        return None
    return item.text if isinstance(item, Message) and is_user_message(item) else None


def _payload(line: bytes, kind: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or value.get("type") != kind:
        return None
    payload = value.get("payload")
    return payload if isinstance(payload, dict) else None
