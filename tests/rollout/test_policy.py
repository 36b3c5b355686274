from __future__ import annotations

import pytest

from codex_actors.protocol.events import EventMsg, ShutdownComplete, TaskComplete, TaskStarted, UserMessage, Warning
from codex_actors.protocol.items import Verbatim
from codex_actors.rollout.policy import is_persisted


@pytest.mark.parametrize(
    "tag",
    [
        "user_message",
        "agent_message",
        "agent_reasoning",
        "agent_reasoning_raw_content",
        "token_count",
        "context_compacted",
        "entered_review_mode",
        "exited_review_mode",
        "thread_rolled_back",
        "undo_completed",
        "turn_aborted",
    ],
)
def test_the_seeds_limited_set_is_kept(tag: str) -> None:
    assert is_persisted(Verbatim(raw={"type": tag}))


@pytest.mark.parametrize(
    "tag",
    [
        "session_configured",
        "task_started",
        "task_complete",
        "agent_message_delta",
        "agent_reasoning_delta",
        "item_started",
        "item_completed",
        "error",
        "warning",
        "stream_error",
        "shutdown_complete",
        "lagged",
        "stream_overrun",
        "undo_started",
        "exec_command_begin",
        "",
    ],
)
def test_everything_else_is_not_kept(tag: str) -> None:
    assert not is_persisted(Verbatim(raw={"type": tag}))


@pytest.mark.parametrize(
    ("msg", "kept"),
    [
        (UserMessage(message="hi"), True),
        (TaskStarted(turn_id="1"), False),
        (TaskComplete(turn_id="1"), False),
        (Warning(message="x"), False),
        (ShutdownComplete(), False),
    ],
    ids=repr,
)
def test_known_events_are_judged_by_their_tag(msg: EventMsg, kept: bool) -> None:
    assert is_persisted(msg) is kept
