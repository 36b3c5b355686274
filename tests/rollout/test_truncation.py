from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest
from codex_actors.protocol.events import ThreadRolledBack
from codex_actors.protocol.history import EventMsgLine, Forked, New, ResponseItemLine, Resumed, RolloutItem
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    FunctionCall,
    InputImage,
    InputText,
    Message,
    OutputText,
    Reasoning,
    ResponseItem,
    SummaryText,
    Verbatim,
)
from codex_actors.rollout.truncation import (
    drop_last_n_user_turns,
    is_user_message,
    truncate_before_nth_user_message,
    truncate_rollout_before_nth_user_message_from_start,
    user_message_positions,
)


def user(text: str) -> Message:
    return Message(role="user", content=(OutputText(text=text),))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def typed(*texts: str) -> Message:
    return Message(role="user", content=tuple(InputText(text=text) for text in texts))


def lines(*items: ResponseItem) -> tuple[RolloutItem, ...]:
    return tuple(ResponseItemLine(payload=item) for item in items)


def rolled_back(turns: int) -> EventMsgLine:
    return EventMsgLine(payload=ThreadRolledBack(num_turns=turns))


PREFIX = (
    Message(role="developer", content=(InputText(text="be brief"),)),
    typed("# AGENTS.md instructions for /tmp\n\n<INSTRUCTIONS>\nx\n</INSTRUCTIONS>"),
    typed("<environment_context>\n  <cwd>/tmp</cwd>\n</environment_context>"),
)
FOUR_TURNS = (
    *lines(user("u1"), assistant("a1"), user("u2"), assistant("a2")),
    rolled_back(1),
    *lines(user("u3"), assistant("a3"), user("u4"), assistant("a4")),
)


@pytest.mark.parametrize(
    "item",
    [
        typed("hello"),
        user("output text counts"),
        Message(role="user", content=()),
        Message(role="user", content=(InputImage(image_url="data:,"),)),
        Message(role="user", content=(Verbatim(raw={"type": "input_audio"}),)),
        typed("# AGENTS.md instructions for /tmp", "two parts"),
        typed("<skill>x</skill>", "two parts"),
        user("<skill>as output text"),
        typed("see <environment_context>"),
        typed("<turn_aborted> without its end"),
        typed("<environment_contexts"),
        typed("# agents.md instructions for /tmp"),
    ],
    ids=repr,
)
def test_what_a_user_said_counts(item: Message) -> None:
    assert is_user_message(item)


@pytest.mark.parametrize(
    "item",
    [
        *PREFIX,
        assistant("hello"),
        Message(role="system", content=(InputText(text="hello"),)),
        typed("<user_instructions>old form</user_instructions>"),
        typed("<skill>\n<name>x</name>"),
        typed(" \n<Environment_Context>x"),
        user("<environment_context>as output text"),
        typed("hello", "<environment_context>in the second part"),
        typed("<user_shell_command>ls</user_shell_command>"),
        typed("  <USER_SHELL_COMMAND>ls"),
        typed("<turn_aborted>\nThe user interrupted\n</turn_aborted>\n"),
        typed("<subagent_notification>\n{}\n</Subagent_Notification>"),
        Reasoning(summary=(SummaryText(text="hello"),)),
        Verbatim(raw={"type": "message", "role": "user"}),
    ],
    ids=repr,
)
def test_what_the_runtime_said_never_counts(item: ResponseItem) -> None:
    assert not is_user_message(item)


def test_truncates_rollout_from_start_before_nth_user_only() -> None:
    items = lines(
        user("u1"),
        assistant("a1"),
        assistant("a2"),
        user("u2"),
        assistant("a3"),
        Reasoning(id="r1", summary=(SummaryText(text="s"),)),
        FunctionCall(call_id="c1", name="tool", arguments="{}"),
        assistant("a4"),
    )
    assert truncate_rollout_before_nth_user_message_from_start(items, 1) == items[:3]
    assert truncate_rollout_before_nth_user_message_from_start(items, 2) == ()


def test_truncation_max_keeps_full_rollout() -> None:
    items = lines(user("u1"), assistant("a1"), user("u2"))
    assert truncate_rollout_before_nth_user_message_from_start(items, None) == items


def test_truncates_rollout_from_start_applies_thread_rollback_markers() -> None:
    assert truncate_rollout_before_nth_user_message_from_start(FOUR_TURNS, 2) == FOUR_TURNS[:7]


def test_ignores_session_prefix_messages_when_truncating_rollout_from_start() -> None:
    items = lines(*PREFIX, user("feature request"), assistant("ack"), user("second question"), assistant("answer"))
    assert truncate_rollout_before_nth_user_message_from_start(items, 1) == items[:5]
    assert truncate_rollout_before_nth_user_message_from_start(items, 0) == items[:3]


@pytest.mark.parametrize(("turns", "left"), [(0, [0, 2]), (1, [0]), (2, []), (99, []), (-1, [0, 2])])
def test_a_rollback_takes_back_user_turns(turns: int, left: list[int]) -> None:
    items = (*lines(user("u1"), assistant("a1"), user("u2")), rolled_back(turns))
    assert user_message_positions(items) == left


def test_cutting_any_history_makes_a_fork() -> None:
    thread_id = ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39")
    for history in (Forked(FOUR_TURNS), Resumed(thread_id, FOUR_TURNS, None)):
        assert truncate_before_nth_user_message(history, 1) == Forked(FOUR_TURNS[:5])
        assert truncate_before_nth_user_message(history, None) == Forked(FOUR_TURNS)


def test_cutting_everything_makes_a_new_thread() -> None:
    assert truncate_before_nth_user_message(Forked(FOUR_TURNS), 0) == New()
    assert truncate_before_nth_user_message(Forked(FOUR_TURNS), 3) == New()
    assert truncate_before_nth_user_message(New(), None) == New()


@pytest.mark.parametrize("n", [-1, True, 1.0, "1"])
def test_a_cut_that_is_no_index_is_refused(n: Any) -> None:
    with pytest.raises(InvalidRequest, match="nth_user_message"):
        truncate_before_nth_user_message(New(), n)


def test_drop_last_n_user_turns_preserves_prefix() -> None:
    history = [assistant("prefix"), user("u1"), assistant("a1"), user("u2"), assistant("a2")]
    assert drop_last_n_user_turns(history, 1) == history[:3]
    assert drop_last_n_user_turns(history, 99) == history[:1]


def test_drop_last_n_user_turns_ignores_session_prefix_user_messages() -> None:
    history = [*PREFIX, user("u1"), assistant("a1"), user("u2"), assistant("a2")]
    assert drop_last_n_user_turns(history, 1) == history[:5]
    assert drop_last_n_user_turns(history, 2) == history[:3]
    assert drop_last_n_user_turns(history, 3) == history[:3]


@pytest.mark.parametrize(("history", "n"), [([user("u1")], 0), ([user("u1")], -3), ([*PREFIX], 2), ([], 1)])
def test_dropping_nothing_leaves_the_history_whole(history: list[ResponseItem], n: int) -> None:
    assert drop_last_n_user_turns(history, n) == history


@given(st.lists(st.sampled_from([user("u"), assistant("a"), PREFIX[1], 0, 1, 3])), st.integers(0, 6))
def test_a_cut_is_a_prefix_that_ends_at_a_user_message(script: list[Any], n: int) -> None:
    items = tuple(rolled_back(step) if isinstance(step, int) else ResponseItemLine(payload=step) for step in script)
    kept = truncate_rollout_before_nth_user_message_from_start(items, n)
    assert kept == items[: len(kept)]
    if kept:
        cut_line = items[len(kept)]
        assert isinstance(cut_line, ResponseItemLine)
        assert is_user_message(cut_line.payload)
