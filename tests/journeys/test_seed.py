from __future__ import annotations

from pathlib import Path

from codex_actors.config import Config
from codex_actors.context import build_initial_context
from codex_actors.protocol.history import Forked, New, ResponseItemLine
from codex_actors.protocol.items import (
    FunctionCall,
    Message,
    OutputText,
    Reasoning,
    ResponseItem,
    SummaryText,
)
from codex_actors.rollout.truncation import truncate_before_nth_user_message


def user_msg(text: str) -> Message:
    return Message(role="user", content=(OutputText(text=text),))


def assistant_msg(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def forked(items: list[ResponseItem]) -> Forked:
    return Forked(tuple(ResponseItemLine(payload=item) for item in items))


def test_drops_from_last_user_only() -> None:
    items: list[ResponseItem] = [
        user_msg("u1"),
        assistant_msg("a1"),
        assistant_msg("a2"),
        user_msg("u2"),
        assistant_msg("a3"),
        Reasoning(id="r1", summary=(SummaryText(text="s"),)),
        FunctionCall(call_id="c1", name="tool", arguments="{}"),
        assistant_msg("a4"),
    ]
    truncated = truncate_before_nth_user_message(forked(items), 1)
    assert truncated == forked(items[:3])
    assert truncate_before_nth_user_message(forked(items), 2) == New()


def test_ignores_session_prefix_messages_when_truncating() -> None:
    config = Config(
        cwd=Path("/repo"), developer_instructions="Answer in English.", user_instructions="Run the tests first."
    )
    prefix = build_initial_context(config)
    items: list[ResponseItem] = [
        *prefix,
        user_msg("feature request"),
        assistant_msg("ack"),
        user_msg("second question"),
        assistant_msg("answer"),
    ]
    truncated = truncate_before_nth_user_message(forked(items), 1)
    assert [message.role for message in prefix] == ["developer", "user", "user"]
    assert truncated == forked([*prefix, user_msg("feature request"), assistant_msg("ack")])


def test_cut_before_first_keeps_only_session_prefix() -> None:
    prefix = build_initial_context(Config(cwd=Path("/repo"), user_instructions="Run the tests first."))
    items: list[ResponseItem] = [*prefix, user_msg("u1"), assistant_msg("a1")]
    assert truncate_before_nth_user_message(forked(items), 0) == forked([*prefix])


def test_no_bound_keeps_the_whole_history() -> None:
    items: list[ResponseItem] = [user_msg("u1"), assistant_msg("a1"), user_msg("u2")]
    assert truncate_before_nth_user_message(forked(items), None) == forked(items)
