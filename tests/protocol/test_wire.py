from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from codex_actors.protocol.events import AgentMessageItem, AgentText, ItemStarted, TokenUsage
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import InputText, Message
from codex_actors.protocol.wire import Wire, made

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
