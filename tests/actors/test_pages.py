from __future__ import annotations

import json
from typing import Any

import pytest

from codex_actors.actors.pages import Pages
from codex_actors.protocol.events import AgentMessage, AgentReasoning, ContextCompacted, TaskStarted, UserMessage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message, Verbatim
from codex_actors.rollout.encode import encode_body, encode_line

THREAD_ID = ThreadId("0193b5b8-0000-7000-8000-000000000001")
STAMP = "2026-01-08T10:11:12.123Z"


def written(pages: Pages, *lines: Any) -> list[dict[str, Any]]:
    return [json.loads(encode_line(STAMP, body)) for body in pages.bodies(lines)]


def test_each_line_gets_the_next_number() -> None:
    pages = Pages(THREAD_ID, 7)
    message = Message(role="user", content=(InputText(text="hi"),))
    found = written(pages, message, encode_body(message)) + written(pages, message)
    assert [line["ordinal"] for line in found] == [7, 8, 9]
    assert list(found[0]) == ["timestamp", "ordinal", "type", "payload", "crc"]


def test_no_number_is_given_to_what_is_no_json() -> None:
    pages = Pages(THREAD_ID, 7)
    with pytest.raises(ValueError, match="makes no line"):
        pages.bodies((Message(role="user"), object()))
    assert written(pages, Message(role="user"))[0]["ordinal"] == 7


def test_what_a_user_sees_is_told_as_items() -> None:
    pages = Pages(THREAD_ID, 0)
    events = (
        UserMessage(message="u", images=("data:x",)),
        AgentReasoning(text="r"),
        AgentMessage(message="a"),
        ContextCompacted(),
    )
    _, *told = [line["payload"] for line in written(pages, TaskStarted(turn_id="t"), *events)]
    assert {(each["type"], each["turn_id"], each["thread_id"]) for each in told} == {("item_completed", "t", THREAD_ID)}
    content = [{"type": "text", "text": "u"}, {"type": "image", "image_url": "data:x"}]
    assert [each["item"] for each in told] == [
        {"type": "UserMessage", "id": "t:1", "content": content},
        {"type": "Reasoning", "id": "t:2", "summary_text": ["r"], "raw_content": []},
        {"type": "AgentMessage", "id": "t:3", "content": [{"type": "Text", "text": "a"}]},
        {"type": "ContextCompaction", "id": "t:4"},
    ]


def test_an_unknown_line_is_numbered_too() -> None:
    (line,) = written(
        Pages(THREAD_ID, 3), Verbatim(raw={"timestamp": "old", "ordinal": 1, "type": "new", "payload": 1})
    )
    assert line.pop("crc")
    assert line == {"timestamp": STAMP, "ordinal": 3, "type": "new", "payload": 1}
