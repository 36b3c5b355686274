from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import StreamError
from codex_actors.model.provider import Completed, ItemAdded, ItemDone, ModelEvent, ReasoningDelta, TextDelta
from codex_actors.model.wire_events import EventReader
from codex_actors.protocol.events import TokenUsage
from codex_actors.protocol.items import CustomToolCall, FunctionCall, Message, OutputText, Reasoning, Verbatim
from tests.model._server import ADDED, BODY, CALL, DELTA, MESSAGE, done, event

REASONING: dict[str, Any] = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [],
    "content": None,
    "encrypted_content": "x",
}


def read(*chunks: bytes) -> list[ModelEvent]:
    reader = EventReader()
    return [each for chunk in chunks for each in reader.read(chunk)]


def read_one(kind: str, **fields: Any) -> list[ModelEvent]:
    return read(event(kind, **fields))


@given(st.lists(st.integers(0, len(BODY))))
def test_cuts_do_not_change_the_events(cuts: list[int]) -> None:
    ends = [*sorted(cuts), len(BODY)]
    assert read(*(BODY[start:end] for start, end in zip([0, *ends], ends, strict=False))) == read(BODY)


@pytest.mark.parametrize(
    ("kind", "fields", "events"),
    [
        ("response.created", {"response": {"id": "r"}}, []),
        ("response.output_text.delta", {"delta": "a"}, [TextDelta("a")]),
        ("response.output_text.delta", {"delta": None}, []),
        ("response.output_text.delta", {}, []),
        ("response.reasoning_summary_part.added", {"summary_index": 0}, []),
        ("response.reasoning_summary_part.added", {"summary_index": 1}, [ReasoningDelta("\n\n")]),
        ("response.reasoning_summary_text.delta", {"delta": "a", "summary_index": 0}, [ReasoningDelta("a")]),
        ("response.reasoning_summary_text.delta", {"delta": "a"}, []),
        ("response.reasoning_text.delta", {"delta": "a", "content_index": 0}, []),
        ("response.custom_tool_call_input.delta", {"delta": "a"}, []),
        ("response.output_item.added", {"item": CALL}, []),
        ("response.output_item.added", {"item": {"type": "message"}}, []),
        ("response.output_item.added", {"item": None}, []),
        ("response.output_item.added", {"item": REASONING}, [ItemAdded(Reasoning(id="rs_1", encrypted_content="x"))]),
        ("response.output_item.done", {"item": REASONING}, [ItemDone(Reasoning(id="rs_1", encrypted_content="x"))]),
        (
            "response.output_item.done",
            {"item": {"type": "new", "a": 1}},
            [ItemDone(Verbatim(raw={"type": "new", "a": 1}))],
        ),
        ("response.output_item.done", {"item": {"a": 1}}, []),
        ("response.output_item.done", {"item": "text"}, []),
        ("response.output_item.done", {}, []),
        ("response.completed", {"response": {"id": "r"}}, [Completed(None, "r")]),
        ("response.completed", {"response": {"id": 7, "usage": None}}, [Completed(None)]),
        ("response.completed", {}, [Completed(None)]),
        ("response.completed", {"response": {"usage": {"input_tokens": "7"}}}, [Completed(TokenUsage())]),
        ("response.anything", {"item": CALL, "delta": "a"}, []),
    ],
)
def test_event_is_read_as_codex_reads_it(kind: str, fields: dict[str, Any], events: list[ModelEvent]) -> None:
    assert read_one(kind, **fields) == events


def test_usage_of_all_kinds_is_read() -> None:
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 15},
    }
    (completed,) = read_one("response.completed", response={"id": "r", "usage": usage})
    assert completed == Completed(
        TokenUsage(
            input_tokens=100,
            cached_input_tokens=60,
            output_tokens=20,
            reasoning_output_tokens=15,
            total_tokens=120,
        ),
        "r",
    )


def test_calls_of_both_kinds_are_read() -> None:
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "apply_patch", "input": "*** Begin"}
    assert read(done(CALL), done(custom)) == [
        ItemDone(FunctionCall(id="fc_1", name="look", arguments="{}", call_id="c1")),
        ItemDone(CustomToolCall(call_id="c2", name="apply_patch", input="*** Begin")),
    ]


def test_item_that_is_wrong_is_logged_without_content(caplog: pytest.LogCaptureFixture) -> None:
    assert read(done({"type": "function_call", "name": "secret", "arguments": {}, "call_id": "c"})) == []
    assert "left out an output item of type 'function_call': arguments: Input should be a valid string" in caplog.text
    assert "secret" not in caplog.text


def test_added_items_begin_empty() -> None:
    full = {**REASONING, "summary": [{"type": "summary_text", "text": "a"}]}
    assert read_one("response.output_item.added", item=MESSAGE) == [ItemAdded(Message(id="msg_1", role="assistant"))]
    assert read_one("response.output_item.added", item=full) == read_one("response.output_item.added", item=REASONING)


def test_summary_deltas_make_up_the_text() -> None:
    summary = [{"type": "summary_text", "text": text} for text in ("one", "two")]
    events = read(
        event("response.reasoning_summary_part.added", summary_index=0),
        event("response.reasoning_summary_text.delta", summary_index=0, delta="one"),
        event("response.reasoning_summary_part.added", summary_index=1),
        event("response.reasoning_summary_text.delta", summary_index=1, delta="two"),
        done({**REASONING, "summary": summary}),
    )
    item = events.pop()
    assert isinstance(item, ItemDone)
    assert isinstance(item.item, Reasoning)
    assert "".join(each.delta for each in events if isinstance(each, ReasoningDelta)) == item.item.text


@pytest.mark.parametrize("text", ["\\ud83d", "a\\udc00b"])
def test_half_a_character_costs_no_message(text: str) -> None:
    message = json.dumps({**MESSAGE, "content": [{"type": "output_text", "text": "@"}]}).replace("@", text)
    (item,) = read(b'data: {"type": "response.output_item.done", "item": %s}\n\n' % message.encode())
    assert isinstance(item, ItemDone)
    assert isinstance(item.item, Message)
    assert isinstance(item.item.content[0], OutputText)
    assert item.item.text == text.replace("\\ud83d", "?").replace("\\udc00", "?")


@pytest.mark.parametrize("data", [b"{", b"[]", b"null", b'"a"', b"\\ud83d", b"[" * 100_000, b'{"type": ["a"]}'])
def test_what_is_no_event_is_skipped(data: bytes) -> None:
    assert read(b"data: %s\n\n" % data, DELTA) == [TextDelta("hi")]


def test_events_before_a_failure_are_given() -> None:
    events: list[ModelEvent] = []
    reader = EventReader().read(ADDED + DELTA + event("error", message="because") + DELTA)
    with pytest.raises(StreamError, match="because"):
        deque(map(events.append, reader))
    assert [type(each) for each in events] == [ItemAdded, TextDelta]
