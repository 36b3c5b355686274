from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from codex_actors.protocol.events import (
    AgentMessage,
    Error,
    EventMsg,
    ShutdownComplete,
    TaskComplete,
    TaskStarted,
    TurnAborted,
    Warning,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import Verbatim
from codex_actors.protocol.status import AgentStatus, Ended, is_final, status_after

WIRE: list[tuple[AgentStatus, Any]] = [
    (AgentStatus.PENDING_INIT, "pending_init"),
    (AgentStatus.RUNNING, "running"),
    (AgentStatus.INTERRUPTED, "interrupted"),
    (AgentStatus.SHUTDOWN, "shutdown"),
    (AgentStatus.NOT_FOUND, "not_found"),
    (AgentStatus.completed("done"), {"completed": "done"}),
    (AgentStatus.completed(None), {"completed": None}),
    (AgentStatus.errored("bad"), {"errored": "bad"}),
]
STATUS: TypeAdapter[AgentStatus] = TypeAdapter(AgentStatus)


@pytest.mark.parametrize(("status", "wire"), WIRE)
def test_each_status_has_its_wire_form(status: AgentStatus, wire: Any) -> None:
    assert status.to_wire() == wire
    assert AgentStatus.from_wire(wire) == AgentStatus.from_wire(status) == status
    assert STATUS.validate_json(json.dumps(wire)) == status
    assert json.loads(STATUS.dump_json(status)) == wire
    assert str(status) == (wire if isinstance(wire, str) else next(iter(wire)))
    assert pickle.loads(pickle.dumps(status)) == status


@pytest.mark.parametrize(
    "wire", ["completed", "busy", "", {"completed": 7}, {"errored": None}, {"running": None}, {}, None, 7, ["running"]]
)
def test_anything_else_is_no_status(wire: Any) -> None:
    with pytest.raises(ValueError, match="not an agent status"):
        AgentStatus.from_wire(wire)
    with pytest.raises(ValidationError):
        STATUS.validate_python(wire)


@pytest.mark.parametrize(
    ("msg", "status"),
    [
        (TaskStarted(turn_id="1"), AgentStatus.RUNNING),
        (TaskComplete(turn_id="1", last_agent_message="done"), AgentStatus.completed("done")),
        (TaskComplete(turn_id="1"), AgentStatus.completed(None)),
        (TaskComplete(turn_id="1", error="bad"), AgentStatus.errored("bad")),
        (TurnAborted(reason="interrupted"), AgentStatus.INTERRUPTED),
        (TurnAborted(reason="replaced"), AgentStatus.errored("replaced")),
        (Error(message="bad"), AgentStatus.errored("bad")),
        (Error(message="bad", codex_error_info="thread_rollback_failed"), None),
        (ShutdownComplete(), AgentStatus.SHUTDOWN),
        (AgentMessage(message="hi"), None),
        (Warning(message="careful"), None),
        (Verbatim(raw={"type": "plan_update"}), None),
    ],
    ids=repr,
)
def test_events_lead_to_their_status(msg: EventMsg, status: AgentStatus | None) -> None:
    assert status_after(msg) == status


def test_all_but_two_words_are_final() -> None:
    waiting = [status.word for status, _ in WIRE if not is_final(status)]
    assert waiting == ["pending_init", "running"]


def test_an_end_is_a_value() -> None:
    end = Ended(ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39"), "crashed", "boom")
    assert pickle.loads(pickle.dumps(end)) == end
