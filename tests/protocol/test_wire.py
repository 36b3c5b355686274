from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from codex_actors.protocol.events import AgentMessageItem, AgentText, ItemStarted, TokenUsage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message, Reasoning
from codex_actors.protocol.wire import Wire, keep_order, made, wire_json, wire_value

ID = ThreadId("0193b5b8-0000-7000-8000-000000000001")
ITEM = AgentMessageItem(id="i", content=(AgentText(text="x"),))
VALUES: list[tuple[type[Wire], dict[str, Any]]] = [
    (TokenUsage, {"input_tokens": 1, "total_tokens": 3}),
    (Message, {"role": "user", "content": (InputText(text="x"),)}),
    (ItemStarted, {"thread_id": ID, "turn_id": "t", "item": ITEM}),
]


@pytest.mark.parametrize(("kind", "values"), VALUES)
def test_what_is_made_equals_what_is_checked(kind: type[Wire], values: dict[str, Any]) -> None:
    ours, checked = made(kind, **values), kind(**values)
    assert ours == checked
    assert checked == ours
    assert ours.model_dump_json() == checked.model_dump_json()
    assert repr(ours) == repr(checked)
    assert copy.deepcopy(ours) == checked
    assert pickle.loads(pickle.dumps(ours)) == checked


def test_what_is_made_stays_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        made(TokenUsage).input_tokens = 1


def test_a_changed_copy_leaves_the_others_alone() -> None:
    first = made(TokenUsage, input_tokens=1)
    assert first.model_copy(update={"input_tokens": 2, "new": 3}).input_tokens == 2
    assert first == made(TokenUsage, input_tokens=1)
    assert made(TokenUsage).model_fields_set == set(TokenUsage.model_fields)


READ = {"content": [{"text": "x", "new": None, "type": "input_text"}], "type": "message", "role": "user", "id": None}


def read(value: dict[str, Any]) -> Message:
    message = Message.model_validate(value)
    keep_order(message, value)
    return message


def test_what_was_read_keeps_its_order() -> None:
    assert json.dumps(wire_value(read(READ))) == json.dumps(READ)
    assert json.loads(wire_json(read(READ), {"id"})) == {name: READ[name] for name in READ if name != "id"}
    assert read(READ) == Message.model_validate(READ)


@pytest.mark.parametrize("part", [InputText(text="x"), made(InputText, text="x")])
def test_parts_of_ours_are_whole_in_what_was_read(part: InputText) -> None:
    message = Message(type="message", role="user", content=(part,))
    wire = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}
    assert json.loads(wire_json(message)) == wire_value(message) == wire


def test_parts_that_were_read_are_whole_in_ours() -> None:
    part = {"type": "input_text", "text": "x", "new": None}
    message = made(Message, role="user", content=(InputText.model_validate(part),))
    assert json.loads(wire_json(message)) == wire_value(message)
    assert wire_value(message)["content"] == [part]


def test_what_was_not_read_has_no_nulls() -> None:
    assert json.loads(wire_json(made(Reasoning))) == wire_value(Reasoning()) == {"type": "reasoning", "summary": []}


def test_a_copy_with_a_new_field_keeps_it() -> None:
    assert wire_value(read(READ).model_copy(update={"phase": "x"}))["phase"] == "x"
