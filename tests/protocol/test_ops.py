from __future__ import annotations

import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.items import ImageInput, TextInput
from codex_actors.protocol.ops import (
    Interrupt,
    Op,
    Shutdown,
    Submission,
    ThreadRollback,
    UserInput,
    parse_input,
    parse_op,
)


@pytest.mark.parametrize(
    ("wire", "op"),
    [
        ({"type": "user_input", "items": [{"type": "text", "text": "hi"}]}, UserInput("hi")),
        ({"type": "interrupt"}, Interrupt()),
        ({"type": "shutdown"}, Shutdown()),
        ({"type": "thread_rollback", "num_turns": 2}, ThreadRollback(num_turns=2)),
    ],
)
def test_each_op_has_its_wire_form(wire: dict[str, Any], op: Op) -> None:
    assert parse_op(wire) == op
    assert parse_op(op) is op
    assert op.model_dump(mode="json", exclude_none=True) == wire
    assert pickle.loads(pickle.dumps(op)) == op
    assert Submission(id="1", op=op).op == op


@pytest.mark.parametrize(
    ("wire", "names"),
    [
        ({"type": "user_input", "items": []}, "items"),
        ({"type": "user_input"}, "items"),
        ({"type": "user_input", "items": [{"type": "local_image", "path": "x"}]}, "items.0"),
        ({"type": "thread_rollback", "num_turns": -1}, "num_turns"),
        ({"type": "user_input", "items": ["hi"], "final_output_json_schema": {"a": object()}}, "output_json_schema"),
        ({"type": "interrupt", "hard": True}, "hard"),
        ({"type": "undo"}, "undo"),
        ({"type": "exec_approval", "id": "", "decision": "approved"}, "id"),
        ({"type": "exec_approval", "id": "1", "decision": "perhaps"}, "decision"),
        ({"type": "override_turn_context", "cwd": "relative"}, "cwd"),
        ({"type": "override_turn_context", "approval_policy": "on-failure"}, "approval_policy"),
        ({"type": "user_turn", "items": []}, "items"),
        ({}, "type"),
        ("hi", "not an op"),
        (None, "not an op"),
        (TextInput(text="x"), "not an op"),
    ],
)
def test_what_is_no_op_is_refused_by_name(wire: Any, names: str) -> None:
    with pytest.raises(InvalidRequest, match=names):
        parse_op(wire)


@pytest.mark.parametrize(
    "value",
    [
        "hi",
        ["hi"],
        ("hi",),
        [TextInput(text="hi")],
        [{"type": "text", "text": "hi"}],
        UserInput("hi"),
        UserInput(items=["hi"]),
    ],
)
def test_input_has_many_forms(value: Any) -> None:
    assert parse_input(value) == UserInput("hi")


def test_input_may_mix_text_and_images() -> None:
    image = ImageInput(image_url="data:,")
    assert parse_input(["see", image]).items == (TextInput(text="see"), image)
    assert parse_input("").items == (TextInput(text=""),)


@pytest.mark.parametrize("value", [[], (), None, 7, [7], [None], {"type": "text"}, b"bytes"])
def test_what_is_no_input_is_refused(value: Any) -> None:
    with pytest.raises(InvalidRequest, match="not user input: items"):
        parse_input(value)


def test_text_and_items_are_one_or_the_other() -> None:
    assert UserInput("hi").items == (TextInput(text="hi"),)
    with pytest.raises(ValidationError):
        UserInput()
