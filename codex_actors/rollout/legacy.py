"""From the lines of a paginated file to those that every Codex resumes and lists. Pure.

Such a line has an `ordinal`, which belongs to its file; what a user interface shows are `item_completed` events there, where
older versions have one event for each kind, and list a thread by its `user_message`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import to_json

from codex_actors.protocol.items import InputImage, Message
from codex_actors.rollout.lines import Head, head_of, value_of
from codex_actors.rollout.payloads import item_in
from codex_actors.rollout.truncation import is_user_message

_WITH_ORDINAL = re.compile(rb'(\{"timestamp":"[^"\\]*",)"ordinal":\d+,')

_OWN_FIELDS = ("history_mode", "history_base", "forked_from_ordinal_exclusive")
"""What a meta says of a paginated file, and would not be true of the copy."""


def as_legacy(lines: Sequence[bytes]) -> list[bytes]:
    """The lines as a file of the older form has them; where none is of the newer form, the same. With a newline each that
    has one, or was made of one that has."""
    metas = [line for line in lines if b'"session_meta"' in line[:120]]
    if not any(_is_paginated(line) for line in metas):
        return list(lines)
    return [line.rstrip(b"\n") + b"\n" * old.endswith(b"\n") for old in lines for line in _legacy(old)]


def _is_paginated(line: bytes) -> bool:
    payload = (value_of(line) or {}).get("payload")
    return isinstance(payload, dict) and payload.get("history_mode") == "paginated"


def _legacy(line: bytes) -> Iterator[bytes]:
    head = head_of(line)
    if head is None:
        return
    if head.type == b"session_meta":
        yield _changed(line, {}, _OWN_FIELDS)
    elif head.type == b"event_msg" and head.payload_type == b"item_completed":
        yield from _legacy_event(line)
    elif head.payload_type == b"user_message" and head.type == b"event_msg":
        return  # made anew behind its item
    else:
        yield _without_ordinal(line)
        yield from _user_event(head, line)


def _user_event(head: Head, line: bytes) -> Iterator[bytes]:
    """The event of a user item: without it 0.87 does not list the thread."""
    if head.type != b"response_item" or b'"user"' not in line:
        return
    item = item_in(line)
    if item is None or not is_user_message(item) or not isinstance(item, Message):
        return
    event: dict[str, Any] = {"type": "user_message", "message": item.text}
    images = [part.image_url for part in item.content if isinstance(part, InputImage)]
    if images:
        event["images"] = images
    value = value_of(line) or {}
    yield to_json({"timestamp": value.get("timestamp", ""), "type": "event_msg", "payload": event})


def _legacy_event(line: bytes) -> Iterator[bytes]:
    payload = (value_of(line) or {}).get("payload")
    item = payload.get("item") if isinstance(payload, dict) else None
    event = None if not isinstance(item, dict) else _event_of(item)
    if event is None:
        yield _without_ordinal(line)
    elif event:
        yield _changed(line, {"payload": event}, ())


def _event_of(item: dict[str, Any]) -> dict[str, Any] | None:
    """The older event for a completed item; empty where it has none or has it already, None where it is not known."""
    match item.get("type"):
        case "UserMessage":
            return {}
        case "AgentMessage":
            parts = item.get("content") or []
            return {"type": "agent_message", "message": "".join(str(part.get("text", "")) for part in parts)}
        case "Reasoning":
            text = "\n\n".join(map(str, item.get("summary_text") or []))
            return {"type": "agent_reasoning", "text": text} if text else {}
        case "ContextCompaction":
            return {"type": "context_compacted"}
        case _:
            return None


def _without_ordinal(line: bytes) -> bytes:
    if b'"crc":' in line[-25:] or (b'"ordinal"' in line and _WITH_ORDINAL.match(line) is None):
        return _changed(line, {}, ())
    return _WITH_ORDINAL.sub(rb"\1", line, count=1)


def _changed(line: bytes, fields: dict[str, Any], without: Sequence[str]) -> bytes:
    """A line with other fields, and without what belongs to its old place and bytes; its payload without some fields."""
    value = {key: old for key, old in (value_of(line) or {}).items() if key not in ("ordinal", "crc")} | fields
    payload = value.get("payload")
    if without and isinstance(payload, dict):
        value["payload"] = {key: old for key, old in payload.items() if key not in without}
    return to_json(value)
