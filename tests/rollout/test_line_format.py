from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from pydantic import BaseModel

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.events import AgentMessage, Error, TokenCount
from codex_actors.protocol.history import (
    Compacted,
    EventMsgLine,
    InputAccepted,
    ResponseItemLine,
    SessionMeta,
    TurnContextItem,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message, TextInput, Verbatim
from codex_actors.rollout.encode import encode_line
from codex_actors.rollout.writer import rollout_path

THREAD_ID = ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39")
STAMP = "2026-01-08T10:11:12.123Z"


def line(item: Any) -> Any:
    encoded = encode_line(STAMP, item)
    assert encoded.endswith(b"}\n")
    assert encoded.count(b"\n") == 1
    value = json.loads(encoded)
    assert list(value)[-1] == "crc"
    assert value.pop("crc") == crc32(encoded[: encoded.rindex(b',"crc":')])
    return value


def test_a_line_has_the_seeds_form() -> None:
    assert encode_line(STAMP, Message(role="user", content=(InputText(text="hi\n"),))) == (
        b'{"timestamp":"2026-01-08T10:11:12.123Z","type":"response_item","payload":'
        b'{"type":"message","role":"user","content":[{"type":"input_text","text":"hi\\n"}]},"crc":223238645}\n'
    )


@pytest.mark.parametrize(
    ("payload", "tag"),
    [
        (SessionMeta(id=THREAD_ID, timestamp=STAMP, cwd="/", originator="o", cli_version="0"), "session_meta"),
        (Message(role="user"), "response_item"),
        (Compacted(message="s"), "compacted"),
        (TurnContextItem(cwd="/", approval_policy="never", sandbox_policy={}, model="m"), "turn_context"),
        (AgentMessage(message="hi"), "event_msg"),
        (InputAccepted(submission_id="1", items=(TextInput(text="x"),)), "codex_actors"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_payload_finds_its_line(payload: BaseModel, tag: str) -> None:
    assert line(payload) == {
        "timestamp": STAMP,
        "type": tag,
        "payload": payload.model_dump(mode="json", exclude_none=True),
    }


def test_a_line_equals_its_payload_alone() -> None:
    said = AgentMessage(message="hi")
    assert encode_line(STAMP, EventMsgLine(payload=said)) == encode_line(STAMP, said)


def test_a_submission_id_stands_beside_the_payload() -> None:
    message = Message(role="user")
    encoded = line(ResponseItemLine(payload=message, submission_id='a"b'))
    assert encoded["submission_id"] == 'a"b'
    assert "submission_id" not in line(ResponseItemLine(payload=message))


def test_nothing_is_said_of_what_is_none() -> None:
    assert line(TokenCount(info=None, rate_limits={"plan": None}))["payload"] == {
        "type": "token_count",
        "rate_limits": {"plan": None},
    }


def test_an_unknown_payload_is_written_as_it_came() -> None:
    raw = {"type": "tool_search_call", "nothing": None, "n": [1.5, {"x": None}]}
    assert line(ResponseItemLine(payload=Verbatim(raw=raw)))["payload"] == raw


def test_an_unknown_line_keeps_all_but_the_files_own() -> None:
    payload = {"full": True, "nothing": None}
    raw = {"timestamp": "2001-01-01T00:00:00.000Z", "ordinal": 7, "type": "world_state", "payload": payload, "x": None}
    assert line(Verbatim(raw=raw)) == {"timestamp": STAMP, "type": "world_state", "payload": payload, "x": None}


@pytest.mark.parametrize(
    ("text", "kept"), [("half \ud83d", "half \ufffd"), ("\ud83d\ude00", "\U0001f600"), ("\u2028 ü", "\u2028 ü")]
)
def test_half_a_surrogate_pair_is_replaced(text: str, kept: str) -> None:
    assert line(Error(message="x", codex_error_info={"text": text}))["payload"]["codex_error_info"] == {"text": kept}
    assert line(Verbatim(raw={"type": "new", "text": text}))["text"] == kept


@pytest.mark.parametrize(
    "item",
    [
        Error(message="x", codex_error_info=object()),
        ResponseItemLine.model_construct(payload="x"),
        TextInput(text="x"),
        {},
        None,
    ],
)
def test_what_makes_no_line_is_an_error(item: Any) -> None:
    with pytest.raises(ValueError, match=r"makes no line|is no payload|serialize"):
        encode_line(STAMP, item)


@pytest.fixture
def twelve_hours_east() -> Any:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "XXX-12"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("twelve_hours_east")
def test_a_rollout_is_filed_under_local_time() -> None:
    now = datetime(2026, 12, 31, 13, 4, 5, tzinfo=UTC)
    assert rollout_path("/home", THREAD_ID, now) == Path(
        f"/home/sessions/2027/01/01/rollout-2027-01-01T01-04-05-{THREAD_ID}.jsonl"
    )


def test_a_time_without_a_zone_is_refused() -> None:
    naive = datetime(2026, 1, 8)
    with pytest.raises(InvalidRequest, match="time zone"):
        rollout_path("/home", THREAD_ID, naive)
