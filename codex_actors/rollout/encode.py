"""What a line is in bytes: `{"timestamp":...,"type":...,"payload":{...},"crc":N}`, with a newline.

The law of this file: `crc` stands last, and is the CRC-32 of all the bytes in front of `,"crc":`. Both Codex versions
ignore it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, TypeAlias, get_args
from zlib import crc32

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError, to_json

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
from codex_actors.protocol.items import ResponseItem, Verbatim

Recordable: TypeAlias = (
    RolloutItem | SessionMeta | ResponseItem | Compacted | TurnContextItem | EventMsg | InputAccepted
)
"""What makes a line: the line itself, or its payload alone (faster). A `Verbatim` is a whole line; one that is a
payload stands in its line (`ResponseItemLine(payload=...)`)."""

LINE_START = b'{"timestamp":"'

_OF_THE_FILE = frozenset({"timestamp", "ordinal", "crc"})
"""Fields of a line that belong to the file it stands in."""

_TIME = re.compile(rb'\{"timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)"')

_END = re.compile(rb',"([^"]{1,6})":(\d{1,10})\}\n?\Z')
"""How a line with a crc ends. The name is looked at, too: a bit of it may be what was damaged."""


def encode_line(timestamp: str, item: Recordable | bytes) -> bytes:
    """The line of `item`, with its newline: `{"timestamp":...,"type":...,"payload":{...},"crc":...}`. A whole line stays as
    it is.

    Raises:
        ValueError: as `encode_body`.
    """
    return encode_lines(timestamp, (item if isinstance(item, bytes) else encode_body(item),))[0]


def encode_lines(timestamp: str, bodies: Iterable[bytes]) -> list[bytes]:
    """The lines of what `encode_body` has made, with their newlines; whole lines stay as they are."""
    start = LINE_START + timestamp.encode()
    return [
        body if body.startswith(b"{") else b'%b,"crc":%d}\n' % (line := start + body[:-2], crc32(line))
        for body in bodies
    ]


def time_of(line: bytes) -> str:
    """The timestamp of a whole line; nothing where it has none of ours or Codex's form, or is no whole line."""
    match = _TIME.match(line)
    return "" if match is None else match[1].decode()


def encode_body(item: Recordable) -> bytes:
    """What follows the timestamp's digits in the line of `item`, without a crc: a line whose timestamp is not known yet.

    Fields that are None are left out. A `Verbatim` keeps all it has but `timestamp`, `ordinal` and `crc`: they belong to
    the file it was read from. Half a surrogate pair, which no JSON reader takes, becomes U+FFFD.

    Raises:
        ValueError: `item` holds something that is not JSON, or makes no line at all.
    """
    head = _HEADS.get(type(item))
    if head is not None:
        return head + _json_of(item) + b"}\n"
    if isinstance(item, Verbatim):
        rest = {key: value for key, value in item.raw.items() if key not in _OF_THE_FILE}
        return (b'",' if rest else b'"') + _json_of(Verbatim(raw=rest))[1:] + b"\n"
    head = _LINE_HEADS.get(type(item))
    if head is None:
        raise ValueError(f"{type(item).__name__} makes no line")
    line: Any = item
    submission = b""
    if isinstance(item, ResponseItemLine) and item.submission_id is not None:
        submission = b',"submission_id":' + to_json(item.submission_id)
    return head + _json_of(line.payload) + submission + b"}\n"


def crc_holds(line: bytes) -> bool | None:
    """Whether the crc of `line` (with or without its newline) is right; None where it has none.

    A right crc under a damaged name is not right. One that another program has written anew, in its own form, is none.
    """
    begin = max(0, len(line) - 24)
    match = _END.search(line, begin)
    if match is None:
        return None if line.find(b',"crc":', begin) < 0 else False
    is_right = crc32(memoryview(line)[: match.start()]) == int(match[2])
    if match[1] == b"crc":
        return is_right
    return False if is_right else None


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
