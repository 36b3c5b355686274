from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from codex_actors.protocol.events import (
    AgentMessage,
    ThreadRolledBack,
    TokenCount,
    TokenUsage,
    TokenUsageInfo,
    UserMessage,
)
from codex_actors.protocol.history import (
    Compacted,
    CompactedLine,
    EventMsgLine,
    InputAccepted,
    InputAcceptedLine,
    ResponseItemLine,
    RolloutItem,
    SessionMeta,
    SessionMetaLine,
    TurnContextItem,
    TurnContextLine,
)
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    CustomToolCall,
    CustomToolCallOutput,
    FunctionCall,
    FunctionCallOutput,
    GhostSnapshot,
    InputText,
    LocalShellCall,
    Message,
    OutputText,
    ResponseItem,
    TextInput,
    Verbatim,
)
from codex_actors.rollout.replay import (
    close_open_calls,
    event_messages,
    last_token_usage,
    last_turn_context,
    model_history,
    open_calls,
    pending_inputs,
    session_meta,
)

FIRST_ID = ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39")
SOURCE_ID = ThreadId("01a208d7-f031-7f60-9ce4-26bbff0dc769")


def user(text: str) -> ResponseItem:
    return Message(role="user", content=(InputText(text=text),))


def assistant(text: str) -> ResponseItem:
    return Message(role="assistant", content=(OutputText(text=text),))


def line(item: ResponseItem, submission_id: str | None = None) -> RolloutItem:
    return ResponseItemLine(payload=item, submission_id=submission_id)


def rolled_back(turns: int) -> RolloutItem:
    return EventMsgLine(payload=ThreadRolledBack(num_turns=turns))


def compacted(message: str, replacement: tuple[ResponseItem, ...] | None = None) -> RolloutItem:
    return CompactedLine(payload=Compacted(message=message, replacement_history=replacement))


def an_input(submission_id: str) -> InputAccepted:
    return InputAccepted(submission_id=submission_id, items=(TextInput(text="x"),))


def accepted(submission_id: str) -> RolloutItem:
    return InputAcceptedLine(payload=an_input(submission_id))


def call(call_id: str) -> ResponseItem:
    return FunctionCall(call_id=call_id, name="tool", arguments="{}")


def output(call_id: str, text: str = "ok") -> ResponseItem:
    return FunctionCallOutput(call_id=call_id, output=text)


def meta(thread_id: ThreadId) -> RolloutItem:
    return SessionMetaLine(
        payload=SessionMeta(id=thread_id, timestamp="t", cwd="/", originator="codex_actors", cli_version="0")
    )


CONTEXT = user("<environment_context>\n  <cwd>/tmp</cwd>\n</environment_context>")


def test_items_come_back_in_order() -> None:
    unknown = Verbatim(raw={"type": "agent_message", "author": "/root"})
    history: list[ResponseItem] = [user("u1"), assistant("a1"), unknown]
    others: list[RolloutItem] = [
        meta(FIRST_ID),
        EventMsgLine(payload=UserMessage(message="u1")),
        Verbatim(raw={"type": "world_state", "payload": {}}),
        Verbatim(raw={"type": "inter_agent_communication", "payload": {}}),
        line(GhostSnapshot(ghost_commit={"id": "abc"})),
    ]
    assert model_history([*others, *(line(item) for item in history), *others]) == history


def test_a_rollback_drops_the_last_user_turns() -> None:
    items = [line(CONTEXT), line(user("u1")), line(assistant("a1")), line(user("u2")), rolled_back(1), line(user("u3"))]
    assert model_history(items) == [CONTEXT, user("u1"), assistant("a1"), user("u3")]


def test_a_rollback_of_more_turns_keeps_the_prefix() -> None:
    assert model_history([line(CONTEXT), line(user("u1")), line(assistant("a1")), rolled_back(99)]) == [CONTEXT]


def test_a_replacement_history_replaces_everything_before_it() -> None:
    items = [
        line(user("u1")),
        compacted("s", (user("kept"), GhostSnapshot(ghost_commit=None))),
        line(assistant("a2")),
    ]
    assert model_history(items) == [user("kept"), assistant("a2")]


def test_reconstruct_history_matches_live_compactions() -> None:
    items = [
        line(CONTEXT),
        line(user("u1")),
        line(assistant("a1")),
        compacted("summary one"),
        line(user("u2")),
        line(assistant("a2")),
        compacted("summary two"),
        line(user("u3")),
        line(assistant("a3")),
    ]
    assert model_history(items) == [
        CONTEXT,
        user("u1"),
        user("u2"),
        user("summary two"),
        user("u3"),
        assistant("a3"),
    ]


def test_a_compaction_keeps_only_context_before_the_first_user() -> None:
    later_context = user("<environment_context>later</environment_context>")
    items = [line(CONTEXT), line(call("c")), line(user("u1")), line(later_context), compacted("")]
    assert model_history(items) == [CONTEXT, user("u1"), user("(no summary available)")]


def test_a_compaction_keeps_the_newest_user_text() -> None:
    texts = ["a" * 40_000, "b" * 60_000, "c" * 30_000]
    items = [*(line(user(text)) for text in texts), compacted("s")]
    border, newest, summary = (item.text for item in model_history(items) if isinstance(item, Message))
    assert newest == texts[2]
    assert summary == "s"
    assert border == "b" * 25_000 + "…2500 tokens truncated…" + "b" * 25_000


def test_user_text_that_just_fits_stays_whole() -> None:
    items = [line(user("old")), line(user("n" * 80_000)), compacted("s")]
    assert model_history(items) == [user("n" * 80_000), user("s")]


def test_calls_without_output_are_open() -> None:
    shell = LocalShellCall(call_id="s1", status="completed", action={})
    custom = CustomToolCall(call_id="x1", name="patch", input="")
    history: list[ResponseItem] = [call("c1"), call("c2"), output("c1"), shell, custom, output("x1")]
    assert open_calls(history) == [call("c2"), shell, custom]


def test_a_shell_call_may_be_named_by_its_item_id() -> None:
    named = LocalShellCall(id="i1", status="completed", action={})
    nameless = LocalShellCall(status="completed", action={})
    assert close_open_calls([named, nameless]) == (
        [named, output("i1", "aborted"), nameless],
        [output("i1", "aborted")],
    )


def test_normalize_adds_missing_output_for_function_call() -> None:
    assert close_open_calls([call("c1"), user("u")]) == (
        [call("c1"), output("c1", "aborted"), user("u")],
        [output("c1", "aborted")],
    )


def test_normalize_adds_missing_output_for_custom_tool_call() -> None:
    custom = CustomToolCall(call_id="x1", name="patch", input="")
    added = CustomToolCallOutput(call_id="x1", output="aborted")
    assert close_open_calls([custom]) == ([custom, added], [added])


def test_normalize_adds_missing_output_for_local_shell_call() -> None:
    shell = LocalShellCall(call_id="s1", status="completed", action={})
    assert close_open_calls([shell]) == ([shell, output("s1", "aborted")], [output("s1", "aborted")])


def test_normalize_removes_orphan_outputs() -> None:
    orphans: list[ResponseItem] = [output("none"), CustomToolCallOutput(call_id="none", output="x"), user("u")]
    assert close_open_calls(orphans) == ([user("u")], [])


def test_normalize_mixed_inserts_and_removals() -> None:
    history = [output("c1"), call("c1"), call("c2"), output("c2"), output("c2", "again"), output("none")]
    assert close_open_calls(history) == (
        [call("c1"), output("c1", "aborted"), call("c2"), output("c2")],
        [output("c1", "aborted")],
    )


def test_a_call_id_may_come_again() -> None:
    history = [call("c"), output("c"), call("c"), output("c"), call("c")]
    assert close_open_calls(history) == ([*history, output("c", "aborted")], [output("c", "aborted")])


def test_a_closed_history_is_left_alone() -> None:
    history = [user("u"), call("c"), output("c"), assistant("a")]
    assert close_open_calls(history) == (history, [])


ANY_CALL = st.sampled_from(["a", "b"]).flatmap(
    lambda call_id: st.sampled_from(
        [
            call(call_id),
            output(call_id),
            CustomToolCall(call_id=call_id, name="t", input=""),
            CustomToolCallOutput(call_id=call_id, output="ok"),
            LocalShellCall(call_id=call_id, status="completed", action={}),
            user("u"),
        ]
    )
)


@given(st.lists(ANY_CALL, max_size=12))
def test_closing_calls_leaves_each_with_one_output(history: list[Any]) -> None:
    closed, added = close_open_calls(history)
    calls = [item for item in closed if isinstance(item, FunctionCall | CustomToolCall | LocalShellCall)]
    outputs = [item for item in closed if isinstance(item, FunctionCallOutput | CustomToolCallOutput)]
    assert len(calls) == len(outputs)
    assert len(added) == len(open_calls(history))
    assert open_calls(closed) == []
    assert close_open_calls(closed) == (closed, [])


def test_an_accepted_input_is_pending_until_its_item() -> None:
    items = [accepted("1"), accepted("2"), line(user("x"), "1"), accepted("3"), line(user("plain"))]
    assert [item.submission_id for item in pending_inputs(items)] == ["2", "3"]


def test_an_input_accepted_twice_is_pending_once() -> None:
    assert pending_inputs([accepted("1"), accepted("1")]) == [an_input("1")]


def test_a_submission_id_may_come_again_after_a_fork() -> None:
    items = [accepted("1"), line(user("x"), "1"), accepted("1")]
    assert pending_inputs(items) == [an_input("1")]


def test_the_last_known_token_usage_is_found() -> None:
    infos = [
        TokenUsageInfo(total_token_usage=TokenUsage(total_tokens=n), last_token_usage=TokenUsage(total_tokens=1))
        for n in (1, 2)
    ]
    items = [EventMsgLine(payload=TokenCount(info=info)) for info in (*infos, None)]
    assert last_token_usage(items) == infos[1]
    assert last_token_usage(items[2:]) is None


def test_the_first_meta_is_the_files_own() -> None:
    found = session_meta([line(user("u")), meta(FIRST_ID), meta(SOURCE_ID)])
    assert found is not None
    assert found.id == FIRST_ID
    assert session_meta([line(user("u"))]) is None


def test_the_last_turn_context_is_found() -> None:
    contexts = [
        TurnContextItem(cwd=cwd, approval_policy="never", sandbox_policy={}, model="m") for cwd in ("/one", "/two")
    ]
    assert last_turn_context([TurnContextLine(payload=context) for context in contexts]) == contexts[1]
    assert last_turn_context([]) is None


def test_only_a_new_thread_has_no_event_messages() -> None:
    said = AgentMessage(message="hi")
    assert event_messages([]) is None
    assert event_messages([line(user("u"))]) == ()
    assert event_messages([line(user("u")), EventMsgLine(payload=said), rolled_back(1)]) == (
        said,
        ThreadRolledBack(num_turns=1),
    )
