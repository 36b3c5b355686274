from __future__ import annotations

import json
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.model.wire_request import EncodedHistories, prompt_headers, request_body
from codex_actors.protocol.items import (
    RESPONSE_ITEM,
    Compaction,
    FunctionCallOutput,
    GhostSnapshot,
    InputText,
    Message,
    ResponseItem,
    Verbatim,
)
from codex_actors.rollout.payloads import item_of
from tests.model._server import CALL, MESSAGE, PROMPT

ITEMS: list[dict[str, Any]] = [
    MESSAGE,
    {**MESSAGE, "id": "msg_2", "status": "completed", "phase": "final_answer"},
    {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
    CALL,
    {"type": "function_call_output", "call_id": "c1", "output": "é\n"},
    {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_image", "image_url": "data:"}]},
    {"type": "custom_tool_call", "id": "ct_1", "call_id": "c2", "name": "a", "input": "b"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search", "query": "q"}},
    {"type": "compaction", "encrypted_content": "x"},
]


def body_of(*items: Any, is_stored: bool = False, **changes: Any) -> Any:
    return json.loads(
        request_body(replace(PROMPT, input=items, **changes), is_stored=is_stored, histories=EncodedHistories())
    )


def test_items_are_sent_as_they_came() -> None:
    items = [RESPONSE_ITEM.validate_python(item) for item in ITEMS]
    without_ids = [{name: value for name, value in item.items() if name != "id"} for item in ITEMS]
    assert body_of(*items)["input"] == without_ids
    assert body_of(*items, is_stored=True)["input"] == ITEMS
    assert (body_of()["store"], body_of(is_stored=True)["store"]) == (False, True)


READ: list[dict[str, Any]] = [
    {"role": "user", "type": "message", "content": [{"text": "a", "new": None, "type": "input_text"}], "phase": None},
    {"type": "reasoning", "summary": [], "content": None, "encrypted_content": None},
    {
        "type": "function_call",
        "name": "f",
        "arguments": "{}",
        "call_id": "c1",
        "status": None,
        "new": {"b": 1, "a": None},
    },
    {"call_id": "c1", "type": "function_call_output", "output": [{"text": "b", "type": "input_text"}]},
]


@pytest.mark.parametrize("item", READ, ids=lambda item: str(item["type"]))
def test_read_items_are_sent_word_for_word(item: dict[str, Any]) -> None:
    read = item_of(item)
    assert read is not None
    sent = request_body(replace(PROMPT, input=(read,)), histories=EncodedHistories())
    assert b'{"input":[' + json.dumps(item, separators=(",", ":")).encode() + b"]," in sent


@pytest.mark.parametrize("item_id", [None, "msg_1"])
def test_id_is_sent_where_the_server_keeps_it(item_id: str | None) -> None:
    item = item_of({"id": item_id, **READ[0]})
    assert body_of(item)["input"] == [READ[0]]
    assert body_of(item, is_stored=True)["input"] == [{"id": item_id, **READ[0]}]


def test_unknown_items_are_sent_word_for_word() -> None:
    raw = {"type": "item_reference", "id": "x", "nothing": None}
    assert body_of(Verbatim(raw=raw))["input"] == [raw]


def test_snapshots_and_raw_thoughts_are_not_sent() -> None:
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]}
    items = (GhostSnapshot(), RESPONSE_ITEM.validate_python(thought), Compaction(encrypted_content="x"))
    assert body_of(*items)["input"] == [
        {"type": "reasoning", "summary": []},
        {"type": "compaction", "encrypted_content": "x"},
    ]
    assert body_of(GhostSnapshot())["input"] == []


def test_added_items_stand_behind_the_input() -> None:
    added = FunctionCallOutput(call_id="c1", output="x")
    sent = json.loads(request_body(PROMPT, [added], histories=EncodedHistories()))["input"]
    assert [item["type"] for item in sent] == ["message", "function_call_output"]


@pytest.mark.parametrize(
    ("changes", "name", "value"),
    [
        ({}, "reasoning", None),
        ({}, "include", None),
        ({}, "text", None),
        ({}, "instructions", None),
        ({"instructions": ""}, "instructions", ""),
        ({"reasoning_effort": "high"}, "reasoning", {"effort": "high", "summary": "auto"}),
        ({"reasoning_effort": "low", "reasoning_summary": "none"}, "reasoning", {"effort": "low"}),
        ({"reasoning_effort": "none"}, "include", ["reasoning.encrypted_content"]),
        ({"reasoning_summary": "detailed"}, "reasoning", None),
        ({"verbosity": "low"}, "text", {"verbosity": "low"}),
        (
            {"output_schema": MappingProxyType({"type": "object"})},
            "text",
            {
                "format": {
                    "type": "json_schema",
                    "name": "codex_output_schema",
                    "strict": True,
                    "schema": {"type": "object"},
                }
            },
        ),
        ({"tools": (MappingProxyType({"type": "function"}),)}, "tools", [{"type": "function"}]),
        ({"parallel_tool_calls": False}, "parallel_tool_calls", False),
    ],
)
def test_settings_are_sent_where_they_are_set(changes: dict[str, Any], name: str, value: Any) -> None:
    body = body_of(Message(role="user", content=(InputText(text="a"),)), **changes)
    assert body.get(name) == value
    assert (name in body) == (value is not None)


def test_headers_name_the_thread_and_agent() -> None:
    thread_id = str(PROMPT.thread_id)
    assert prompt_headers(PROMPT) == {"conversation_id": thread_id, "session_id": thread_id}
    assert prompt_headers(replace(PROMPT, subagent="compact"))["x-openai-subagent"] == "compact"


def items_of(count: int, text: str = "x") -> tuple[ResponseItem, ...]:
    return tuple(Message(role="user", content=(InputText(text=f"{text}{number}"),)) for number in range(count))


def plain(items: tuple[ResponseItem, ...]) -> list[bytes]:
    return [item.model_dump_json(exclude_none=True).encode() for item in items]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=8), st.integers(0, 20_000))
def test_kept_histories_are_what_was_asked(sizes: list[int], max_bytes: int) -> None:
    histories, items, others = EncodedHistories(max_bytes), items_of(60), items_of(60, "other")
    for size in sizes:
        assert histories.encode("a", items[:size], False) == plain(items[:size])
        assert histories.encode("b", others[:size], False) == plain(others[:size])
        assert 0 <= histories._bytes <= max_bytes
        assert histories._bytes == sum(kept[2] for kept in histories._kept.values())


def test_history_that_grew_is_encoded_from_there() -> None:
    histories, items = EncodedHistories(), items_of(50)
    first, second = (histories.encode("a", items[:size], False) for size in (40, 50))
    assert all(old is new for old, new in zip(first, second, strict=False))
    assert second == plain(items)


def test_compacted_history_is_encoded_anew() -> None:
    histories, items = EncodedHistories(), items_of(50)
    histories.encode("a", items, False)
    changed = (*items_of(1, "summary"), *items[1:])
    assert histories.encode("a", changed, False) == plain(changed)
    assert histories.encode("a", changed[:40], False) == plain(changed[:40])
