"""What a list says of one thread, from the head and the tail of its file: a long file costs no more than a short one.

Source: `codex-rs/core/src/rollout/list.rs`, `read_head_for_summary`; `metadata.rs`, `extract_metadata_from_rollout`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from codex_actors.protocol.history import ROLLOUT_ITEM, RolloutItem
from codex_actors.protocol.items import Message
from codex_actors.rollout.lines import value_of
from codex_actors.rollout.replay import last_status
from codex_actors.rollout.truncation import is_user_message

HEAD_BYTES = 1 << 20
"""How far into a file its meta and its first user message are looked for."""

TAIL_BYTES = 1 << 18
"""How far back from its end the newest model, tokens and status are looked for."""

PREVIEW_CHARS = 1000
"""How much of the first user message is kept."""

_BLOCK_BYTES = 1 << 14

_FILE_NAME = re.compile(
    r"rollout-(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d)-([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})(?:_[^/]*)?\.jsonl",
    re.IGNORECASE,
)

_NO_MODEL_SAID = b'"role":"user"'
_NO_MODEL_SAID_SPACED = b'"role": "user"'


@dataclass(frozen=True, slots=True)
class KeptThread:
    """A thread that is kept in a file.

    Attributes:
        created: When it began, UTC.
        updated: When its file was last written, UTC.
        source: Codex's word, or `subagent`; `unknown` where none is recorded.
        model: The newest that is recorded near the end of the file, else near its beginning; None without one.
        preview: What its user said first, in one line; empty where that is not near the beginning.
        name: What it was named; None where it has no name.
        parent_id: The thread that spawned it.
        forked_from_id: The thread whose lines it began with.
        status: How its newest turn ended, a word of `AgentStatus`.
        tokens: All that it has used, as its model's server counts; None where that is not near the end of the file.
    """

    id: str
    path: Path
    created: datetime
    updated: datetime
    size_bytes: int
    is_archived: bool
    cwd: str
    source: str
    model: str | None
    preview: str
    name: str | None
    parent_id: str | None
    forked_from_id: str | None
    agent_path: str | None
    agent_nickname: str | None
    status: str
    tokens: int | None

    def to_wire(self) -> dict[str, Any]:
        """A JSON object with these fields; times are RFC 3339, milliseconds, `Z`."""
        times = {
            key: getattr(self, key).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            for key in ("created", "updated")
        }
        return asdict(self) | times | {"path": os.fsencode(self.path).decode(errors="replace")}


@dataclass(frozen=True, slots=True)
class Stamp:
    """What a file was when it was looked at; a file with the same stamp has the same content.

    (It may not, where two writes of equal length fall into one tick of the disk's clock. No rollout is written so.)
    """

    mtime_ns: int
    size: int
    inode: int

    @property
    def values(self) -> tuple[int, int, int]:
        """Its three fields."""
        return self.mtime_ns, self.size, self.inode

    @classmethod
    def of(cls, stat: os.stat_result) -> Stamp:
        """That of a file."""
        return cls(stat.st_mtime_ns, stat.st_size, stat.st_ino)


@dataclass(frozen=True, slots=True)
class Summary:
    """What a file says of its thread. `created_ms` counts from 1970; `meta_id` is the id that its meta has."""

    meta_id: str
    created_ms: int
    cwd: str
    source: str
    model: str | None
    preview: str
    parent_id: str | None
    forked_from_id: str | None
    agent_path: str | None
    agent_nickname: str | None
    status: str
    tokens: int | None


def name_parts(name: str) -> tuple[str, str] | None:
    """Of a rollout's file name: its time (`YYYY-MM-DDThh-mm-ss`, local) and its thread's id; None where it is none.

    Newer Codex begins a further file of the same thread, with `_<segment>` behind the id, when turns are reverted.
    """
    match = _FILE_NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else None


def read_summary(path: Path) -> tuple[Stamp, Summary | None]:
    """What `path` is and says now; None where no meta stands near its beginning.

    Raises:
        OSError: it cannot be read.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        stamp = Stamp.of(os.fstat(fd))
        head = _Head()
        first = os.pread(fd, _BLOCK_BYTES, 0)
        for line in _lines_from_start(fd, stamp.size, first):
            head.take(line)
            if head.is_whole:
                break
        if head.meta is None:
            return stamp, None
        tail = _Tail()
        for lines in _lines_from_end(fd, stamp.size, first):
            tail.take(lines)
            if tail.is_whole:
                break
        tail.end(is_all=stamp.size <= TAIL_BYTES)
    finally:
        os.close(fd)
    return stamp, _summary(head, tail, path)


def _summary(head: _Head, tail: _Tail, path: Path) -> Summary:
    meta = head.meta or {}
    source = meta.get("source", "vscode")
    spawned = _spawned(source)
    if isinstance(source, dict):
        source = next(iter(source), "unknown")
    named = name_parts(path.name)
    return Summary(
        meta_id=str(meta.get("id", "")),
        created_ms=_ms(meta.get("timestamp")) or _ms(head.timestamp) or _ms_of_name(named[0] if named else ""),
        cwd=_text(meta.get("cwd")) or "",
        source=source if isinstance(source, str) and source else "unknown",
        model=tail.model or head.model,
        preview=head.preview or "",
        parent_id=_text(meta.get("parent_thread_id")) or _text(spawned.get("parent_thread_id")),
        forked_from_id=_text(meta.get("forked_from_id")),
        agent_path=_text(meta.get("agent_path")) or _text(spawned.get("agent_path")),
        agent_nickname=_text(meta.get("agent_nickname")) or _text(spawned.get("agent_nickname")),
        status=tail.status or "interrupted",
        tokens=tail.tokens,
    )


def _spawned(source: Any) -> dict[str, Any]:
    """The lineage of `{"subagent": {"thread_spawn": {...}}}`."""
    inner = source.get("subagent") if isinstance(source, dict) else None
    spawn = inner.get("thread_spawn") if isinstance(inner, dict) else None
    return spawn if isinstance(spawn, dict) else {}


class _Head:
    """What the first lines say."""

    def __init__(self) -> None:
        self.meta: dict[str, Any] | None = None
        self.timestamp: Any = None
        self.model: str | None = None
        self.preview: str | None = None

    @property
    def is_whole(self) -> bool:
        return self.meta is not None and bool(self.preview)

    def take(self, line: bytes) -> None:
        value = value_of(line) or {}
        payload = value.get("payload")
        if not isinstance(payload, dict):
            return
        match value.get("type"):
            case "session_meta" if self.meta is None and isinstance(payload.get("id"), str):
                self.meta, self.timestamp = payload, value.get("timestamp")
            case "turn_context" if self.model is None:
                self.model = _text(payload.get("model"))
            case "event_msg" | "response_item" if self.preview is None:
                self.preview = " ".join((_said(payload) or "").split())[:PREVIEW_CHARS] or None


class _Tail:
    """What the last lines say; they are taken in blocks, the last block first."""

    def __init__(self) -> None:
        self.model: str | None = None
        self.tokens: int | None = None
        self.status: str | None = None
        self._later: list[RolloutItem] = []
        """Of the newest turn, as far as its begin has not been found yet."""

    @property
    def is_whole(self) -> bool:
        return None not in (self.model, self.tokens, self.status)

    def take(self, lines: Sequence[bytes]) -> None:
        turn: list[RolloutItem] = []
        for line in reversed(lines):
            if self.is_whole:
                return
            if self.status is not None and self.tokens is not None and b"turn_context" not in line:
                continue
            value = value_of(line) or {}
            payload, kind = value.get("payload"), value.get("type")
            if not isinstance(payload, dict):
                continue
            if kind == "turn_context" and self.model is None:
                self.model = _text(payload.get("model"))
            elif kind == "event_msg" and payload.get("type") == "token_count" and self.tokens is None:
                self.tokens = _tokens(payload)
            if self.status is None and kind in ("event_msg", "response_item") and _add(turn, value, line):
                self.status = last_status([*reversed(turn), *self._later]).word
        self._later = [*reversed(turn), *self._later]

    def end(self, *, is_all: bool) -> None:
        """Nothing more is read; `is_all` where nothing more is there."""
        if self.status is None:
            status = last_status(self._later).word
            # A turn so long that its begin is out of reach has begun.
            self.status = "interrupted" if status == "pending_init" and not is_all else status


def _add(turn: list[RolloutItem], value: dict[str, Any], line: bytes) -> bool:
    """Whether the turn begins with this line, or all that counts of it stands here; lines come backwards."""
    kind = value["payload"].get("type")
    if kind not in _STATUS_KINDS:
        return False
    try:
        item = ROLLOUT_ITEM.validate_python(value)
    except (ValidationError, TypeError):
        return False
    turn.append(item)
    if kind in ("task_complete", "turn_aborted"):
        return True
    if _NO_MODEL_SAID not in line and _NO_MODEL_SAID_SPACED not in line:
        return False
    payload = getattr(item, "payload", None)
    return isinstance(payload, Message) and is_user_message(payload)


_STATUS_KINDS = (
    "custom_tool_call",
    "function_call",
    "local_shell_call",
    "message",
    "task_complete",
    "token_count",
    "turn_aborted",
)
"""What `last_status` looks at."""


def _said(payload: dict[str, Any]) -> str | None:
    """What a user says in this payload, in each of the forms that Codex has for it."""
    match payload:
        case {"type": "user_message", "message": str(text)}:
            return text
        case {"type": "item_completed", "item": {"type": "UserMessage", "content": list(content)}}:
            return _texts(content)
        case {"type": "message", "role": "user", "content": list(content)}:
            try:
                message = Message.model_validate(payload)
            except ValidationError:
                return None
            return _texts(content) if is_user_message(message) else None
        case _:
            return None


def _texts(content: list[Any]) -> str:
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return " ".join(text for text in texts if isinstance(text, str))


def _tokens(payload: dict[str, Any]) -> int | None:
    match payload:
        case {"info": {"total_token_usage": {"total_tokens": int(total)}}}:
            return total
        case _:
            return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _ms(text: Any) -> int:
    """Milliseconds since 1970; 0 where it is no time."""
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return 0
    return round((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp() * 1000)


def _ms_of_name(text: str) -> int:
    try:
        return round(datetime.strptime(text, "%Y-%m-%dT%H-%M-%S").timestamp() * 1000)  # it is local
    except (ValueError, OverflowError, OSError):
        return 0


def _lines_from_start(fd: int, size: int, first: bytes) -> Iterator[bytes]:
    """The whole lines of the first `HEAD_BYTES`, and the last one of the file though it may be torn."""
    rest, place, block = b"", 0, first
    while block:
        place += len(block)
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
        block = os.pread(fd, _BLOCK_BYTES, place) if place < min(size, HEAD_BYTES) else b""
    if place >= size:
        yield rest


def _lines_from_end(fd: int, size: int, first: bytes) -> Iterator[list[bytes]]:
    """The lines of the last `TAIL_BYTES`, in blocks: the last block first, each in order. A line that the first of these
    bytes cut is left out."""
    if len(first) == size:
        yield first.split(b"\n")
        return
    rest, place = b"", size
    while place > max(0, size - TAIL_BYTES):
        begin = max(0, place - _BLOCK_BYTES)
        block = os.pread(fd, place - begin, begin) + rest
        place = begin
        cut, newline, others = block.partition(b"\n")
        if begin == 0:
            yield block.split(b"\n")
        elif newline:
            yield others.split(b"\n")
            rest = cut
        else:
            rest = block
