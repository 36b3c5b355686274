from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from codex_actors.protocol.events import TaskComplete, TaskStarted, ThreadRolledBack, TurnAborted, UserMessage
from codex_actors.protocol.history import TurnContextItem
from codex_actors.protocol.items import InputText, Message, OutputText
from codex_actors.rollout.encode import encode_body
from codex_actors.rollout.turns import TurnSpan, turns_of

USER = Message(role="user", content=(InputText(text="u"),))
CONTEXT = Message(role="user", content=(InputText(text="<environment_context>"),))
ANSWER = Message(role="assistant", content=(OutputText(text="a"),))
TOLD = UserMessage(message="u")


def context(turn_id: str | None) -> TurnContextItem:
    return TurnContextItem(cwd="/", approval_policy="never", sandbox_policy={}, model="m", turn_id=turn_id)


def spans(*lines: Any) -> list[TurnSpan]:
    return turns_of([b'{"timestamp":"' + encode_body(line)[:-1] for line in lines])


def bounds(*lines: Any) -> list[tuple[str | None, int, int | None]]:
    return [(turn.turn_id, turn.start, turn.end) for turn in spans(*lines)]


def test_a_turn_begins_with_its_inputs() -> None:
    lines = (CONTEXT, USER, TOLD, context("t1"), ANSWER, USER, TOLD, USER, TOLD, context("t2"), ANSWER)
    assert bounds(*lines) == [("t1", 0, 5), ("t2", 5, None)]


def test_a_steered_input_begins_no_turn() -> None:
    assert bounds(USER, context("t1"), ANSWER, USER, TOLD, ANSWER) == [("t1", 0, None)]


def test_a_named_begin_and_end_count() -> None:
    lines = (TaskStarted(turn_id="t1"), context("t1"), USER, ANSWER, TaskComplete(turn_id="t1"), TOLD)
    assert bounds(*lines, TaskStarted(turn_id="t2"), USER) == [("t1", 0, 5), ("t2", 6, None)]
    assert spans(*lines)[0].is_explicit


def test_an_abort_ends_and_names_a_turn() -> None:
    assert bounds(USER, context(None), TurnAborted(turn_id="t1", reason="interrupted")) == [("t1", 0, 3)]


def test_a_rollback_takes_turns_with_input() -> None:
    lines = (
        USER,
        context("t1"),
        ANSWER,
        USER,
        context("t2"),
        ANSWER,
        TaskStarted(turn_id="t3"),
        TaskComplete(turn_id="t3"),
    )
    turns = spans(*lines, ThreadRolledBack(num_turns=1))
    assert [turn.is_rolled_back for turn in turns] == [False, True, True]


def test_each_captured_turn_ends_where_the_next_begins(captured: Path) -> None:
    lines = captured.read_bytes().splitlines()
    turns = turns_of(lines)
    assert turns
    for one, following in pairwise(turns):
        assert one.end is not None
        assert one.start < one.end <= following.start
