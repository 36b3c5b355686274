"""Where turns begin and end among the lines of a rollout, as far as the lines say it. Pure.

Two forms: the newer Codex has `task_started` and an end for each turn; the seed and this runtime have a `turn_context` line
behind what began the turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codex_actors.rollout.lines import Head, head_of, value_of
from codex_actors.rollout.payloads import item_in
from codex_actors.rollout.truncation import is_user_message

STARTS = frozenset({b"task_started", b"turn_started"})
ENDS = frozenset({b"task_complete", b"turn_complete", b"turn_aborted"})
_IS_INPUT = frozenset({b"user_message", b"thread_settings_applied"})


@dataclass(slots=True)
class TurnSpan:
    """A turn: the indexes of its first line, and of the first behind it (None while it has no end).

    `is_explicit` says that it has a line that begins it.
    """

    turn_id: str | None
    start: int
    end: int | None
    is_explicit: bool
    is_rolled_back: bool = False
    has_input: bool = False


def turns_of(lines: Sequence[bytes]) -> list[TurnSpan]:
    """The turns, in order; also those that were rolled back."""
    turns: list[TurnSpan] = []
    inputs: int | None = None
    """Where the run of inputs and context begins that a `turn_context` may follow."""
    for index, line in enumerate(lines):
        head = head_of(line)
        if head is None:
            continue
        is_open = bool(turns) and turns[-1].end is None
        kind, tag = head
        if kind == b"event_msg" and tag in STARTS:
            _end(turns, index)
            turns.append(TurnSpan(_turn_id(line), index, None, is_explicit=True))
        elif kind == b"event_msg" and tag in ENDS and is_open:
            turns[-1].end = index + 1
            turns[-1].turn_id = turns[-1].turn_id or _turn_id(line)
        elif kind == b"turn_context" and not (is_open and turns[-1].is_explicit):
            start = index if inputs is None else inputs
            _end(turns, start)
            turns.append(TurnSpan(_turn_id(line), start, None, is_explicit=False, has_input=inputs is not None))
        elif tag == b"thread_rolled_back":
            _roll_back(turns, line)
        if is_input(head, line):
            inputs = index if inputs is None else inputs
            if turns and turns[-1].end is None and is_user_line(head, line):
                turns[-1].has_input = True
        else:
            inputs = None
    return turns


def is_input(head: Head, line: bytes) -> bool:
    """Whether a line may stand between the begin of a turn and its `turn_context`."""
    if head.type == b"response_item":
        return head.payload_type == b"message" and b'"role":"assistant"' not in line
    return head.type in (b"codex_actors", b"world_state") or head.payload_type in _IS_INPUT


def is_user_line(head: Head, line: bytes) -> bool:
    """Whether it is the item of something that a user said."""
    if head.type != b"response_item" or b'"user"' not in line:
        return False
    item = item_in(line)
    return item is not None and is_user_message(item)


def _end(turns: list[TurnSpan], index: int) -> None:
    if turns and turns[-1].end is None:
        turns[-1].end = index


def _roll_back(turns: list[TurnSpan], line: bytes) -> None:
    payload = (value_of(line) or {}).get("payload")
    count = payload.get("num_turns") if isinstance(payload, dict) else None
    left = count if type(count) is int else 0
    for turn in reversed(turns):
        if left <= 0:
            return
        if not turn.is_rolled_back:
            turn.is_rolled_back = True
            left -= turn.has_input


def _turn_id(line: bytes) -> str | None:
    payload = (value_of(line) or {}).get("payload")
    turn_id = payload.get("turn_id") if isinstance(payload, dict) else None
    return turn_id if isinstance(turn_id, str) else None
