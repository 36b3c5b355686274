from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codex_actors.errors import InvalidRequest, RolloutError
from codex_actors.protocol.events import ThreadRolledBack, TokenCount, TokenUsage, TokenUsageInfo, UserMessage
from codex_actors.protocol.history import Forked, InputAccepted, New, Replayed, Segment, SessionMeta, TurnContextItem
from codex_actors.protocol.ids import ThreadId
from codex_actors.protocol.items import (
    FunctionCall,
    FunctionCallOutput,
    InputText,
    Message,
    OutputText,
    ResponseItem,
    TextInput,
)
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.chain import segments_of
from codex_actors.rollout.encode import encode_body, encode_line
from codex_actors.rollout.forking import ABORTED_MARKER, ForkPoint, Recorded, diff_of, fork_of
from codex_actors.rollout.reader import items_of
from codex_actors.rollout.replay import open_calls
from codex_actors.rollout.truncation import truncate_rollout_before_nth_user_message_from_start

DATA = Path(__file__).parent / "data"
META = SessionMeta(
    id=ThreadId("01a208d7-edea-79b2-aa1a-cba508aa5d39"), timestamp="t", cwd="/", originator="o", cli_version="0"
)
DONE = TokenCount(info=TokenUsageInfo(total_token_usage=TokenUsage(), last_token_usage=TokenUsage()))
CALL = FunctionCall(name="look", arguments="{}", call_id="c1")


def user(text: str) -> Message:
    return Message(role="user", content=(InputText(text=text),))


def assistant(text: str) -> Message:
    return Message(role="assistant", content=(OutputText(text=text),))


def turn(turn_id: str, text: str, *answers: Any, done: bool = True) -> list[Any]:
    """A turn as this runtime records it."""
    context = TurnContextItem(cwd="/", approval_policy="never", sandbox_policy={}, model="m", turn_id=turn_id)
    return [user(text), UserMessage(message=text), context, *answers, *([DONE] if done else [])]


THREAD = [
    META,
    user("<environment_context>"),
    *turn("t1", "one", assistant("first")),
    *turn("t2", "two", CALL, DONE, FunctionCallOutput(call_id="c1", output="seen"), assistant("second")),
]
RUNNING = [*THREAD, *turn("t3", "three", CALL, done=False)]


def fork(lines: list[Any], at: ForkPoint | int | None) -> tuple[list[str], Replayed]:
    """What the model of the fork sees, as words, and what its lines come to."""
    found = fork_of(Recorded((), tuple(lines)), at)
    assert isinstance(found, Forked)
    assert found.state is not None
    return [words(item) for item in found.state.history], found.state


def words(item: ResponseItem) -> str:
    if isinstance(item, Message):
        return "aborted turn" if item.text == ABORTED_MARKER else item.text
    return f"output: {item.output}" if isinstance(item, FunctionCallOutput) else item.type


CONTEXT = "<environment_context>"
TWO = [CONTEXT, "one", "first", "two", "function_call", "output: seen", "second"]
THREE = [*TWO, "three", "function_call", "output: aborted", "aborted turn"]


@pytest.mark.parametrize(
    ("lines", "at", "expected"),
    [
        (THREAD, ForkPoint.end(), TWO),
        (THREAD, ForkPoint.interrupted(), TWO),
        (THREAD, ForkPoint.before_user_message(0), TWO[:1]),
        (THREAD, ForkPoint.before_user_message(1), TWO[:3]),
        (THREAD, ForkPoint.before_turn("t2"), TWO[:3]),
        (THREAD, ForkPoint.after_turn("t1"), TWO[:3]),
        (THREAD, ForkPoint.after_turn("t2"), TWO),
        (THREAD, ForkPoint.after_item(2), TWO[:3]),
        (THREAD, ForkPoint.after_item("c1"), [*TWO[:5], "output: aborted", "aborted turn"]),
        (THREAD, ForkPoint.after_item(5), [*TWO[:6], "aborted turn"]),
        (RUNNING, ForkPoint.end(), TWO),
        (RUNNING, ForkPoint.interrupted(), THREE),
        (RUNNING, ForkPoint.before_turn("t3"), TWO),
        (RUNNING, ForkPoint.before_user_message(2), TWO),
        (RUNNING, ForkPoint.after_item(7), [*TWO, "three", "aborted turn"]),
        (THREAD, 1, TWO[:3]),
        (RUNNING, None, [*TWO, "three", "function_call"]),
    ],
)
def test_a_fork_leaves_its_parent_at_a_point(lines: list[Any], at: ForkPoint | int | None, expected: list[str]) -> None:
    assert fork(lines, at)[0] == expected


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: ForkPoint.before_user_message(2), "no user message 2"),
        (lambda: ForkPoint.before_turn("t9"), "no turn with the id t9"),
        (lambda: ForkPoint.after_item("nothing"), "no item 'nothing'; 7 items"),
        (lambda: ForkPoint.after_item(7), "no item 7"),
        (lambda: ForkPoint.before_user_message(-1), "n: -1 is below 0"),
        (lambda: ForkPoint.before_user_message(True), "n: True is not a whole number"),
        (lambda: ForkPoint.before_turn(3), "turn_id: 3 is not text"),  # type: ignore[arg-type]
    ],
)
def test_a_point_that_is_none_is_named(make: Callable[[], ForkPoint], named: str) -> None:
    with pytest.raises(InvalidRequest, match=named):
        fork(THREAD, make())


def test_a_turn_that_runs_has_no_end_yet() -> None:
    with pytest.raises(InvalidRequest, match="t3 has not ended"):
        fork(RUNNING, ForkPoint.after_turn("t3"))


def test_a_turn_that_was_rolled_back_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="t2 was rolled back"):
        fork([*THREAD, ThreadRolledBack(num_turns=1)], ForkPoint.before_turn("t2"))


def test_an_aborted_fork_says_which_turn_it_cut() -> None:
    _, state = fork(RUNNING, ForkPoint.interrupted())
    assert state.status == AgentStatus.INTERRUPTED
    assert state.events is not None
    assert (state.events[-1].type, getattr(state.events[-1], "turn_id", None)) == ("turn_aborted", "t3")


def test_an_input_of_the_parent_is_not_the_forks() -> None:
    accepted = InputAccepted(submission_id="s1", items=(TextInput(text="mine"),))
    found = fork_of(Recorded((), (*THREAD, accepted)), ForkPoint.end())
    assert isinstance(found, Forked)
    assert not any(b"codex_actors" in line for line in found.raw)
    assert found.parent_lines == len(THREAD) + 1


def test_nothing_left_is_a_new_thread() -> None:
    assert fork_of(Recorded((), ()), ForkPoint.end()) == New()
    assert fork_of(Recorded((), tuple(THREAD)), 7) == New()


def test_unchanged_lines_are_copied_as_they_are(captured: Path) -> None:
    raw = captured.read_bytes()
    found = fork_of(Recorded(segments_of(captured), ()), None)
    assert isinstance(found, Forked)
    if b'"ordinal"' not in raw:
        assert b"".join(found.raw) == raw
    assert not any(b'"ordinal"' in line or b'"history_base"' in line for line in found.raw)


def test_each_captured_fork_is_listed_by_its_user_messages(captured: Path) -> None:
    found = fork_of(Recorded(segments_of(captured), ()), None)
    assert isinstance(found, Forked)
    lines = [json.loads(line) for line in found.raw]
    events = [line["payload"]["message"] for line in lines if line["payload"].get("type") == "user_message"]
    assert found.state is not None
    assert events
    assert found.state.status == AgentStatus.completed(found.state.status.message)


def test_a_file_without_a_meta_is_not_forked(tmp_path: Path) -> None:
    path = tmp_path / "rollout.jsonl"
    path.write_bytes(SESSION[9:] + encode_line(STAMP, user("a")))
    for at in (None, ForkPoint.end()):
        with pytest.raises(RolloutError, match="failed to parse thread ID"):
            fork_of(Recorded((Segment(path, path.stat().st_size),), ()), at)


def test_a_paginated_fork_brings_its_parents_lines() -> None:
    path = next(DATA.glob("*00b.jsonl"))
    found = fork_of(Recorded(segments_of(path), ()), ForkPoint.after_turn("turn-1"))
    assert isinstance(found, Forked)
    assert found.state is not None
    kinds = [words(item) for item in found.state.history if not words(item).startswith("<")]
    assert kinds == ["one", "reasoning", "function_call", "output: seen", "first"]
    lines = [json.loads(line) for line in found.raw]
    assert [line["type"] for line in lines].count("session_meta") == 1
    told = [
        line["payload"].get("message") for line in lines if line["type"] == "event_msg" and "message" in line["payload"]
    ]
    assert told == ["one", "first"]


def test_a_begun_turn_without_input_is_cut() -> None:
    path = next(DATA.glob("*00a.jsonl"))
    found = fork_of(Recorded(segments_of(path), ()), ForkPoint.before_user_message(1))
    assert isinstance(found, Forked)
    assert b'"task_complete"' in found.raw[-1]


def test_a_diff_names_what_is_not_common() -> None:
    a, b = [user("1"), user("2"), user("3")], [user("1"), user("4")]
    found = diff_of(a, b)
    assert (found.common, found.a, found.b) == (1, tuple(a[1:]), tuple(b[1:]))
    assert diff_of(a, a).common == 3


ANSWERS = st.lists(
    st.sampled_from([assistant("said"), CALL, FunctionCallOutput(call_id="c1", output="x"), DONE, user("steered")]),
    max_size=5,
)
TURNS = st.lists(st.tuples(ANSWERS, st.booleans()), max_size=4)


@settings(max_examples=150)
@given(TURNS, st.integers(0, 12), st.integers(0, 4))
def test_no_fork_has_an_open_call_or_half_turn(turns: list[Any], item: int, nth: int) -> None:
    lines: list[Any] = [META]
    for number, (answers, is_done) in enumerate(turns):
        lines += turn(f"t{number}", f"u{number}", *answers, done=is_done)
    points = [ForkPoint.end(), ForkPoint.interrupted(), ForkPoint.after_item(item), ForkPoint.before_user_message(nth)]
    for at in points:
        try:
            found = fork_of(Recorded((), tuple(lines)), at)
        except InvalidRequest:
            continue
        assert isinstance(found, Forked)
        assert found.state is not None
        assert open_calls(found.state.history) == []
        again = fork_of(Recorded((), found.raw), ForkPoint.interrupted())
        assert isinstance(again, Forked)
        assert again.raw == found.raw


@given(
    st.lists(st.sampled_from([user("a"), assistant("b"), ThreadRolledBack(num_turns=1)]), max_size=9), st.integers(0, 4)
)
def test_the_seeds_cut_is_that_of_its_lines(lines: list[Any], n: int) -> None:
    rule = truncate_rollout_before_nth_user_message_from_start(items_of(map(encode_body, lines)), n)
    found = fork_of(Recorded((), tuple(lines)), n)
    assert len(found.raw if isinstance(found, Forked) else ()) == len(rule)


STAMP = "2026-01-08T10:11:12.123Z"
SESSION = encode_line(STAMP, META)
PIECES = st.sampled_from(
    [
        *(encode_line(STAMP, line) for line in (user("a"), assistant("b"), CALL, DONE, ThreadRolledBack(num_turns=1))),
        encode_line(STAMP, InputAccepted(submission_id="s1", items=())),
        SESSION.replace(b'"cwd"', b'"history_mode":"paginated","cwd"'),
        SESSION.replace(b'","type"', b'","ordinal":7,"type"'),
        encode_line("", user("c")),
        b'{"type": "event_msg", "payload": {"type": "user_message", "message": "d"}}\n',
        b'{"timestamp":"2026-01-08T10:11:12.123Z","type":"response_item","payload":{"type":"message","role":"us\n',
        b'{"timestamp":"no line at all"}\n',
        b"\n",
    ]
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=6), st.integers(0, 3))
def test_a_whole_file_is_forked_as_its_lines_are(tmp_path: Path, lines: list[bytes], torn: int) -> None:
    data = b"".join([SESSION, *lines])
    path, nothing = tmp_path / "rollout", tmp_path / "nothing"
    path.write_bytes(data)
    nothing.touch()
    segment = Segment(path, len(data) - torn)
    line_by_line = fork_of(Recorded((segment, Segment(nothing, 0)), ()), None)
    assert fork_of(Recorded((segment,), ()), None) == line_by_line


def test_runs_of_lines_are_lines_again() -> None:
    stamped = [encode_line(STAMP, line) for line in THREAD]
    found = fork_of(Recorded((), (b"".join(stamped[:5]), *stamped[5:], *turn("t3", "three", assistant("last")))), None)
    assert isinstance(found, Forked)
    assert found.raw.runs[:2] == (b"".join(stamped[:-1]), stamped[-1])
    assert fork_of(Recorded((), found.raw.runs), None) == found
