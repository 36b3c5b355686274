from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from codex_actors.protocol.items import (
    RESPONSE_ITEM,
    Compaction,
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    GhostSnapshot,
    ImageInput,
    InputImage,
    InputText,
    LocalShellCall,
    Message,
    OutputText,
    Reasoning,
    SummaryText,
    TextInput,
    Verbatim,
    WebSearchCall,
    user_message,
)

WIRE: list[tuple[type, dict[str, Any]]] = [
    (Message, {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]}),
    (Message, {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "hi"}]}),
    (Message, {"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "data:,"}]}),
    (Message, {"type": "message", "role": "user", "content": [{"type": "input_audio", "nothing": None}]}),
    (Message, {"type": "message", "role": "assistant", "content": [], "phase": "final_answer"}),
    (Reasoning, {"type": "reasoning", "summary": [{"type": "summary_text", "text": "s"}], "encrypted_content": "e"}),
    (Reasoning, {"type": "reasoning", "id": "r1", "summary": [], "content": [{"type": "text", "text": "raw"}]}),
    (LocalShellCall, {"type": "local_shell_call", "call_id": "c", "status": "completed", "action": {"type": "exec"}}),
    (FunctionCall, {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c", "namespace": "n"}),
    (FunctionCallOutput, {"type": "function_call_output", "call_id": "c", "output": "text"}),
    (
        FunctionCallOutput,
        {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "t"}]},
    ),
    (CustomToolCall, {"type": "custom_tool_call", "call_id": "c", "name": "f", "input": "free"}),
    (CustomToolCallOutput, {"type": "custom_tool_call_output", "call_id": "c", "output": "text"}),
    (WebSearchCall, {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}),
    (GhostSnapshot, {"type": "ghost_snapshot", "ghost_commit": {"id": "abc"}}),
    (Compaction, {"type": "compaction", "encrypted_content": "e"}),
    (Compaction, {"type": "compaction_summary", "encrypted_content": "e"}),
    (Verbatim, {"type": "tool_search_call", "nothing": None, "deep": {"raw": {"x": None}}}),
]


@pytest.mark.parametrize(("kind", "wire"), WIRE, ids=lambda value: value["type"] if isinstance(value, dict) else "")
def test_each_item_goes_through_unharmed(kind: type, wire: dict[str, Any]) -> None:
    item = RESPONSE_ITEM.validate_json(json.dumps(wire))
    assert type(item) is kind
    assert item.type == wire["type"]
    assert item.model_dump(mode="json", exclude_none=True) == wire
    assert RESPONSE_ITEM.validate_python(wire) == RESPONSE_ITEM.validate_python(item) == item
    assert pickle.loads(pickle.dumps(item)) == item


@pytest.mark.parametrize(
    "wire",
    [
        {"type": "message"},
        {"type": "message", "role": "user", "content": "plain text"},
        {"type": "message", "role": "user", "content": [{"type": "input_text"}]},
        {"type": "function_call", "name": "f", "arguments": {}, "call_id": "c"},
        {"type": "function_call_output", "call_id": "c"},
        {"type": "reasoning", "content": [{"type": "other", "text": "x"}]},
        "text",
        7,
    ],
)
def test_a_known_item_that_does_not_fit_is_refused(wire: Any) -> None:
    with pytest.raises(ValidationError):
        RESPONSE_ITEM.validate_python(wire)


def test_items_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        InputText(text="a").text = "b"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4).map(lambda rest: {**rest, "type": "from_the_future"}))
def test_an_unknown_item_is_kept_as_it_came(wire: dict[str, Any]) -> None:
    item = RESPONSE_ITEM.validate_json(json.dumps(wire))
    assert isinstance(item, Verbatim)
    assert json.loads(item.model_dump_json(exclude_none=True)) == item.model_dump(mode="json") == wire


def test_verbatim_without_a_tag_has_an_empty_type() -> None:
    assert (Verbatim(raw={}).type, Verbatim(raw={"type": 7}).type) == ("", "7")


def test_a_messages_text_is_its_text_parts() -> None:
    parts = (InputText(text="a"), InputImage(image_url="data:,"), OutputText(text="b"), Verbatim(raw={"text": "c"}))
    assert Message(role="user", content=parts).text == "ab"
    assert Message(role="user").text == ""


def test_a_reasonings_text_is_its_summary() -> None:
    assert Reasoning(summary=(SummaryText(text="a"), SummaryText(text="b"))).text == "a\n\nb"


def test_user_input_becomes_one_user_message() -> None:
    message = user_message((TextInput(text="see"), ImageInput(image_url="one"), ImageInput(image_url="two")))
    assert message.model_dump(mode="json", exclude_none=True) == {
        "type": "message",
        "role": "user",
        "content": [
            {"type": "input_text", "text": "see"},
            {"type": "input_image", "image_url": "one"},
            {"type": "input_image", "image_url": "two"},
        ],
    }
