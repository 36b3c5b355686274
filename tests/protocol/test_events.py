from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from pydantic import ValidationError

from codex_actors.protocol import events
from codex_actors.protocol.events import EVENT_MSG, Event, ItemCompleted, SessionConfigured, TokenUsage
from codex_actors.protocol.items import Verbatim

ID = "01a208d7-edea-79b2-aa1a-cba508aa5d39"
USAGE = {
    "input_tokens": 1,
    "cached_input_tokens": 2,
    "output_tokens": 3,
    "reasoning_output_tokens": 4,
    "total_tokens": 5,
}
WIRE: dict[str, dict[str, Any]] = {
    "SessionConfigured": {
        "type": "session_configured",
        "session_id": ID,
        "model": "m",
        "model_provider_id": "p",
        "approval_policy": "never",
        "sandbox_policy": {"type": "danger-full-access"},
        "cwd": "/",
        "initial_messages": [{"type": "agent_message", "message": "hi"}, {"type": "plan_update", "x": None}],
    },
    "TaskStarted": {"type": "task_started", "turn_id": "1", "model_context_window": 7},
    "TaskComplete": {"type": "task_complete", "turn_id": "1", "last_agent_message": "done"},
    "TurnAborted": {"type": "turn_aborted", "reason": "interrupted"},
    "UserMessage": {"type": "user_message", "message": "hi", "images": ["data:,"], "local_images": []},
    "AgentMessage": {"type": "agent_message", "message": "hi"},
    "AgentMessageDelta": {"type": "agent_message_delta", "delta": "h"},
    "AgentReasoning": {"type": "agent_reasoning", "text": "hm"},
    "AgentReasoningDelta": {"type": "agent_reasoning_delta", "delta": "h"},
    "TokenCount": {
        "type": "token_count",
        "info": {"total_token_usage": USAGE, "last_token_usage": USAGE, "model_context_window": 7},
        "rate_limits": {"primary": None},
    },
    "ItemStarted": {
        "type": "item_started",
        "thread_id": ID,
        "turn_id": "1",
        "item": {"type": "AgentMessage", "id": "i", "content": [{"type": "Text", "text": "hi"}]},
    },
    "ItemCompleted": {
        "type": "item_completed",
        "thread_id": ID,
        "turn_id": "1",
        "item": {"type": "FunctionCall", "id": "c", "name": "f", "arguments": "{}", "output": "x", "success": True},
    },
    "Error": {"type": "error", "message": "bad", "codex_error_info": {"http_connection_failed": {"status": 500}}},
    "Warning": {"type": "warning", "message": "careful"},
    "StreamErrorEvent": {"type": "stream_error", "message": "Reconnecting... 1/5"},
    "ThreadRolledBack": {"type": "thread_rolled_back", "num_turns": 1},
    "ShutdownComplete": {"type": "shutdown_complete"},
    "Lagged": {"type": "lagged", "missed": 3},
    "StreamOverrun": {"type": "stream_overrun", "missed": 3, "since": "7"},
    "Verbatim": {"type": "plan_update", "plan": [{"nothing": None}]},
}


@pytest.mark.parametrize("name", WIRE)
def test_each_event_goes_through_unharmed(name: str) -> None:
    msg = EVENT_MSG.validate_json(json.dumps(WIRE[name]))
    assert type(msg) is (Verbatim if name == "Verbatim" else getattr(events, name))
    assert msg.model_dump(mode="json", exclude_none=True) == WIRE[name]
    assert pickle.loads(pickle.dumps(Event("1", msg))) == Event("1", msg)


@pytest.mark.parametrize(
    "wire",
    [
        {"type": "UserMessage", "id": "u", "content": [{"type": "text", "text": "hi"}]},
        {"type": "Reasoning", "id": "r", "summary_text": ["s"], "raw_content": []},
        {"type": "WebSearch", "id": "w", "query": None},
    ],
)
def test_each_turn_item_goes_through_unharmed(wire: dict[str, Any]) -> None:
    completed = ItemCompleted.model_validate({"thread_id": ID, "turn_id": "1", "item": wire})
    assert completed.model_dump(mode="json", exclude_none=True)["item"] == wire


@pytest.mark.parametrize(
    "wire",
    [
        {"type": "user_message"},
        {"type": "token_count", "info": {}},
        {"type": "thread_rolled_back", "num_turns": "many"},
        {"type": "item_started", "thread_id": "no id", "turn_id": "1", "item": {"type": "Plan"}},
    ],
)
def test_a_known_event_that_does_not_fit_is_refused(wire: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        EVENT_MSG.validate_python(wire)


def test_a_new_thread_has_no_initial_messages() -> None:
    wire = {key: value for key, value in WIRE["SessionConfigured"].items() if key != "initial_messages"}
    configured = SessionConfigured.model_validate(wire)
    assert (configured.initial_messages, configured.rollout_path, configured.forked_from_id) == (None, None, None)


def test_token_usage_adds_each_count() -> None:
    doubled = {name: 2 * count for name, count in USAGE.items()}
    assert (TokenUsage(**USAGE) + TokenUsage(**USAGE)).model_dump() == doubled
    assert TokenUsage() + TokenUsage(**USAGE) == TokenUsage(**USAGE)
