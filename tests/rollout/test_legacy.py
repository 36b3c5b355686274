from __future__ import annotations

import json
from typing import Any

import pytest

from codex_actors.rollout.legacy import as_legacy

STAMP = "2026-01-08T10:11:12.123Z"
META: dict[str, Any] = {"id": "x", "history_mode": "paginated", "history_base": {}, "more": None}


def line(type_: str, payload: Any, **more: Any) -> bytes:
    value = {"timestamp": STAMP, "ordinal": 7, "type": type_, "payload": payload, **more}
    return json.dumps(value, separators=(",", ":")).encode()


def legacy(*lines: bytes) -> list[dict[str, Any]]:
    """What becomes of the lines, without the meta in front of them."""
    return [json.loads(found) for found in as_legacy([line("session_meta", META), *lines])[1:]]


def completed(item: Any) -> bytes:
    return line("event_msg", {"type": "item_completed", "item": item})


def test_lines_of_the_older_form_stay_the_same() -> None:
    lines = [
        b'{"timestamp":"t","type":"session_meta","payload":{"id":"x"}}',
        line("event_msg", {"type": "user_message"}),
    ]
    assert as_legacy(lines) == lines


def test_a_meta_loses_what_its_file_was() -> None:
    (meta,) = as_legacy([line("session_meta", META)])
    assert json.loads(meta) == {"timestamp": STAMP, "type": "session_meta", "payload": {"id": "x", "more": None}}


def test_an_ordinal_is_cut_out_of_the_bytes() -> None:
    old = line("world_state", {"a": [1.50, "\\u00e9"], "ordinal": 7})
    _, new = as_legacy([line("session_meta", META), old])
    assert new == old.replace(b'"ordinal":7,', b"", 1)


def test_a_checksum_of_other_bytes_is_dropped() -> None:
    assert legacy(line("world_state", {}, crc=123)) == [{"timestamp": STAMP, "type": "world_state", "payload": {}}]


def test_a_user_item_is_told_once() -> None:
    content = [{"type": "input_text", "text": "hi"}, {"type": "input_image", "image_url": "data:x"}]
    user = line("response_item", {"type": "message", "role": "user", "content": content})
    context = line(
        "response_item", {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<skill>"}]}
    )
    told = line("event_msg", {"type": "user_message", "message": "hi"})
    found = legacy(context, user, completed({"type": "UserMessage", "id": "1", "content": []}), told)
    assert [each["payload"]["type"] for each in found] == ["message", "message", "user_message"]
    assert found[-1]["payload"] == {"type": "user_message", "message": "hi", "images": ["data:x"]}


@pytest.mark.parametrize(
    ("item", "event"),
    [
        (
            {"type": "AgentMessage", "content": [{"type": "Text", "text": "a"}]},
            {"type": "agent_message", "message": "a"},
        ),
        ({"type": "Reasoning", "summary_text": ["a", "b"]}, {"type": "agent_reasoning", "text": "a\n\nb"}),
        ({"type": "ContextCompaction", "id": "1"}, {"type": "context_compacted"}),
    ],
)
def test_a_completed_item_becomes_its_event(item: Any, event: Any) -> None:
    assert [each["payload"] for each in legacy(completed(item))] == [event]


def test_an_item_of_another_kind_stays_as_it_is() -> None:
    item = {"type": "CommandExecution", "id": "c1"}
    assert legacy(completed(item)) == [
        {"timestamp": STAMP, "type": "event_msg", "payload": {"type": "item_completed", "item": item}}
    ]
