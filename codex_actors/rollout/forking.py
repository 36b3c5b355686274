"""How a fork begins: which lines of its parent it copies, and what closes them. Pure, but for reading the parent's files.

The law of this file: a fork has no half turn and no open call, and a line that does not change is copied as it is.
Source: `codex-rs/core/src/thread_manager.rs`, `ForkSnapshot`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, Self

from codex_actors.errors import InvalidRequest, RolloutError
from codex_actors.protocol.events import TurnAborted
from codex_actors.protocol.history import Forked, New, RawLines, Replayed, ResponseItemLine, Segment
from codex_actors.protocol.items import InputText, Message, ResponseItem, Verbatim
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.encode import encode_body
from codex_actors.rollout.legacy import as_legacy
from codex_actors.rollout.lines import FileLines, head_of, value_of
from codex_actors.rollout.load import replayed_lines, status_of
from codex_actors.rollout.replay import aborted_output, open_calls
from codex_actors.rollout.scan import Scan
from codex_actors.rollout.turns import ENDS, TurnSpan, is_user_line, turns_of

ABORTED_MARKER = (
    "<turn_aborted>\nThis conversation was forked while the turn above was at work; here the turn ends as interrupted. "
    "What it had begun may be done in part.\n</turn_aborted>"
)
"""What the model reads where a turn was cut."""

UNTIMED = b'{"timestamp":"'
"""With it a line begins that has no timestamp yet: `encode_body` says what follows."""

_UNTIMED_LINE = UNTIMED + b'"'

_OF_ITEM = frozenset({b"user_message", b"agent_message", b"agent_reasoning", b"token_count", *ENDS})
"""The events that tell of the item before them."""


@dataclass(frozen=True, slots=True)
class ForkPoint:
    """Where a fork leaves its parent: made by one of the functions of this class."""

    kind: Literal["end", "interrupted", "before_user_message", "before_turn", "after_turn", "after_item"]
    value: int | str | None = None

    @classmethod
    def end(cls) -> Self:
        """Behind the last turn that has ended: one that still runs is left out."""
        return cls("end")

    @classmethod
    def interrupted(cls) -> Self:
        """Behind all there is; a turn that still runs ends there as interrupted, in the fork alone."""
        return cls("interrupted")

    @classmethod
    def before_user_message(cls, n: int) -> Self:
        """Before the `n`-th user message that still counts, from 0."""
        return cls("before_user_message", _checked("n", n, int))

    @classmethod
    def before_turn(cls, turn_id: str) -> Self:
        """Before all that a turn recorded."""
        return cls("before_turn", _checked("turn_id", turn_id, str))

    @classmethod
    def after_turn(cls, turn_id: str) -> Self:
        """Behind a turn that has ended."""
        return cls("after_turn", _checked("turn_id", turn_id, str))

    @classmethod
    def after_item(cls, item: int | str) -> Self:
        """Behind an item of the history: by its number among all that were recorded (from 0), or by the `id` or `call_id`
        that it has (the first that has it). Its turn ends there as interrupted, unless it has ended."""
        return cls("after_item", item if isinstance(item, str) else _checked("item", item, int))


@dataclass(frozen=True, slots=True)
class Recorded:
    """All that a thread has recorded: in these files, and then these (payloads, whole lines, or what `encode_body` makes)."""

    segments: tuple[Segment, ...]
    lines: Sequence[Any]


@dataclass(frozen=True, slots=True)
class HistoryDiff:
    """What two histories have in common: the first `common` items, and what each has behind them."""

    common: int
    a: tuple[ResponseItem, ...]
    b: tuple[ResponseItem, ...]


def lines_of(recorded: Recorded) -> list[bytes]:
    """The lines, whole and with their newlines; those that are broken are left out.

    Raises:
        RolloutError: a file cannot be read.
    """
    lines: list[bytes] = []
    if recorded.segments:
        with FileLines(recorded.segments) as source:
            # Nearly every line has the first form: what is broken inside of it, its readers skip.
            lines = [
                line + b"\n"
                for _, line in source.lines()
                if (line.startswith(UNTIMED) and line.endswith(b"}")) or head_of(line) is not None
            ]
    for line in recorded.lines:
        body = line if isinstance(line, bytes) else encode_body(line)
        if body.startswith(b"{"):
            lines += [each + b"\n" for each in body.rstrip(b"\n").split(b"\n")]
        else:
            lines.append(UNTIMED + body)
    return lines


def fork_of(recorded: Recorded, at: ForkPoint | int | None) -> Forked | New:
    """With what a fork begins. A number is the seed's cut: before that user message; beyond the last one, nothing is left;
    None keeps all, also a turn that still runs.

    Raises:
        InvalidRequest: there is no such point.
        RolloutError: a file cannot be read, or has no meta with a thread id.
    """
    forked = _whole_file(recorded) if at is None else None
    if forked is not None:
        return forked
    lines = lines_of(recorded)
    kept = _whole_turns(lines[: _cut(lines, at)], at) if isinstance(at, ForkPoint) else lines[: _seed_cut(lines, at)]
    count = len(kept)
    kept = as_legacy([line for line in kept if b'"codex_actors"' not in line[:120] or not _is_ours(line)])
    state = replayed_lines(kept)
    closing = _closing(kept, state) if isinstance(at, ForkPoint) else []
    if closing:
        kept += [UNTIMED + body for body in closing]
        state = replayed_lines(kept)
    if not kept:
        return New()
    if recorded.segments and state.meta is None:
        raise RolloutError(recorded.segments[-1].path, "failed to parse thread ID from rollout file")
    return Forked((), RawLines(_runs(kept)), state, count)


def _whole_file(recorded: Recorded) -> Forked | None:
    """A fork with all lines of one file, where each of them may stay as it is: they are not even taken apart."""
    if recorded.lines or len(recorded.segments) != 1:
        return None
    with FileLines(recorded.segments) as source:
        scan = Scan(source)
        scan.take(source.lines())
        start, last = next(source.lines_before(source.size), (0, b""))
        lines = source.first_bytes(start)
        is_torn = not last or start + len(last) == source.size
        if not scan.is_plain or source.is_mended or is_torn or len(lines) < start:
            return None
        count = lines.count(b"\n") + 1
        return Forked((), RawLines((lines, last + b"\n")), scan.replayed(0, source.size), count)


def _runs(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Those with a timestamp that follow each other are one. The last stands alone: the writer, which looks at the
    beginning of each, learns of the newest time from it."""
    for are_timed, group in groupby(lines, lambda line: not line.startswith(_UNTIMED_LINE)):
        run = list(group)
        if are_timed:
            yield b"".join(run[:-1])
            yield run[-1]
        else:
            yield from (line[len(UNTIMED) :] for line in run)


def diff_of(a: Sequence[ResponseItem], b: Sequence[ResponseItem]) -> HistoryDiff:
    """Where two histories part."""
    common = 0
    for one, other in zip(a, b, strict=False):
        if one != other:
            break
        common += 1
    return HistoryDiff(common, tuple(a[common:]), tuple(b[common:]))


def _cut(lines: Sequence[bytes], at: ForkPoint) -> int:
    """How many lines stand before the point."""
    match at.kind:
        case "before_user_message":
            positions = _user_positions(lines)
            if isinstance(at.value, int) and at.value < len(positions):
                return positions[at.value]
            raise InvalidRequest(f"at: there is no user message {at.value} (from 0); there are {len(positions)}")
        case "after_item":
            return _behind_item(lines, at.value)
        case "before_turn" | "after_turn":
            turn = _turn(lines, str(at.value))
            if at.kind == "before_turn":
                return turn.start
            if _is_open(lines, turn):
                raise InvalidRequest(f"at: turn {at.value} has not ended; fork before it, or as interrupted")
            return len(lines) if turn.end is None else turn.end
        case _:
            return len(lines)


def _seed_cut(lines: Sequence[bytes], n: int | None) -> int:
    if n is None:
        return len(lines)
    positions = _user_positions(lines)
    return positions[n] if n < len(positions) else 0


def _user_positions(lines: Sequence[bytes]) -> list[int]:
    """As `truncation.user_message_positions`."""
    positions: list[int] = []
    for index, line in enumerate(lines):
        head = head_of(line)
        if head is not None and head.payload_type == b"thread_rolled_back":
            payload = (value_of(line) or {}).get("payload") or {}
            turns = payload.get("num_turns")
            if type(turns) is int:
                del positions[max(0, len(positions) - max(0, turns)) :]
        elif head is not None and is_user_line(head, line):
            positions.append(index)
    return positions


def _turn(lines: Sequence[bytes], turn_id: str) -> TurnSpan:
    turns = [turn for turn in turns_of(lines) if turn.turn_id == turn_id]
    if not turns:
        raise InvalidRequest(f"at: no turn with the id {turn_id} was recorded")
    if turns[0].is_rolled_back:
        raise InvalidRequest(f"at: turn {turn_id} was rolled back")
    return turns[0]


def _behind_item(lines: Sequence[bytes], item: int | str | None) -> int:
    """Where the item ends, with what was recorded of it behind it."""
    number, end = -1, None
    for index, line in enumerate(lines):
        head = head_of(line)
        if end is not None:
            if head is not None and (head.type == b"token_usage_record" or head.payload_type in _OF_ITEM):
                continue
            return index
        if head is not None and head.type == b"response_item":
            number += 1
            end = index + 1 if _is_item(line, number, item) else None
    if end is None:
        raise InvalidRequest(f"at: there is no item {item!r}; {number + 1} items were recorded (from 0)")
    return len(lines)


def _is_item(line: bytes, number: int, item: int | str | None) -> bool:
    if not isinstance(item, str):
        return item == number
    payload = (value_of(line) or {}).get("payload") or {}
    return item in (payload.get("id"), payload.get("call_id"))


def _is_open(lines: Sequence[bytes], turn: TurnSpan, state: Replayed | None = None) -> bool:
    """Whether it is still at work where the lines end, which come to `state`. A turn of the older form has no line that
    ends it: the usage of a response without calls does."""
    if turn.end is not None:
        return False
    return turn.is_explicit or (status_of(lines) if state is None else state.status) == AgentStatus.INTERRUPTED


def _whole_turns(lines: list[bytes], at: ForkPoint) -> list[bytes]:
    """Without a last turn of which nothing but its begin was kept, or of which nothing is wanted."""
    turns = turns_of(lines)
    if turns and _is_open(lines, turns[-1]) and (at.kind == "end" or not turns[-1].has_input):
        return lines[: turns[-1].start]
    return lines


def _closing(lines: Sequence[bytes], state: Replayed) -> list[bytes]:
    """What ends the calls and the turn that are still open."""
    items: list[Any] = [aborted_output(call) for call in open_calls(state.history)]
    turns = turns_of(lines)
    if turns and _is_open(lines, turns[-1], state):
        items.append(Message(role="user", content=(InputText(text=ABORTED_MARKER),)))
        items.append(TurnAborted(turn_id=turns[-1].turn_id, reason="interrupted"))
    return [encode_body(ResponseItemLine(payload=item) if isinstance(item, Verbatim) else item) for item in items]


def _is_ours(line: bytes) -> bool:
    """An input that another thread accepted is not the fork's."""
    head = head_of(line)
    return head is not None and head.type == b"codex_actors"


def _checked(name: str, value: Any, kind: type) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise InvalidRequest(f"{name}: {value!r} is not {'a whole number' if kind is int else 'text'}")
    if isinstance(value, int) and value < 0:
        raise InvalidRequest(f"{name}: {value} is below 0")
    return value
