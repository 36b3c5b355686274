"""What of a rollout still counts, while its lines are looked at as bytes (`load` is where a file comes from).

The law of this file: a line is parsed only if it survives what stands behind it. In memory are the addresses of lines that
may, and never a line that a compaction or a rollback has made dead.
Source: as `replay`, whose functions are the rule that this follows (`test_scan_agrees_with_replay`).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from itertools import chain

from codex_actors.protocol.events import TokenUsageInfo
from codex_actors.protocol.history import (
    Compacted,
    EventMsgLine,
    InputAccepted,
    Replayed,
    ResponseItemLine,
    RolloutItem,
    Segment,
    SessionMeta,
    TurnContextItem,
)
from codex_actors.protocol.items import GhostSnapshot, Message, ResponseItem
from codex_actors.protocol.status import AgentStatus
from codex_actors.rollout.encode import crc_holds
from codex_actors.rollout.lines import QUICK_HEAD, FileLines, LineSource, head_of, ordinal_of, value_of
from codex_actors.rollout.payloads import RecordedEvents, item_in, line_in, payload_in, replacement_in
from codex_actors.rollout.replay import last_status, summarized, summary_prefix
from codex_actors.rollout.truncation import drop_last_n_user_turns, is_user_message

EVENT_BYTES = 8 << 20
"""How much of the events is kept in memory for `SessionConfigured.initial_messages`."""

EVENTS = 1 << 16
"""So many are held at most; half of them is what is kept."""

HEAD = slice(37, 100)
"""Where in a line with a timestamp its kind stands: the same bytes there make the same kind."""

KINDS = 1_024
"""So many such beginnings are known without a look at each line."""

_DATED = b'{"timestamp":"2'

_BROKEN, _IGNORED, _ITEM, _SNAPSHOT, _EVENT, _STATUS, _USAGE, _ROLLBACK, _CONTEXT, _COMPACTED, _META, _ACCEPTED = range(
    12
)

_OF_EVENTS = {
    b"token_count": _USAGE,
    b"task_complete": _STATUS,
    b"turn_aborted": _STATUS,
    b"thread_rolled_back": _ROLLBACK,
}
_OF_LINES = {
    b"turn_context": _CONTEXT,
    b"compacted": _COMPACTED,
    b"session_meta": _META,
    b"codex_actors": _ACCEPTED,
}
_STATUS_EVENTS = frozenset({b"token_count", b"task_complete", b"turn_aborted"})


class Scan:
    """What survives, while the lines of `source` are looked at in order."""

    def __init__(self, source: LineSource, own: int = 0) -> None:
        self.source = source
        self.meta: SessionMeta | None = None
        self.skipped: list[int] = []
        self.is_blank = True
        self.is_plain = True
        """Whether a fork may have all lines as they are, as far as their heads say it."""
        self._own = own
        self._is_known = False
        self._items = array("q")
        self._recent = array("q")
        self._base: list[ResponseItem] = []
        self._replacement: int | None = None
        self._events: list[bytes] = []
        self._usage: bytes | None = None
        self._is_counted = False
        self._context: bytes | None = None
        self._pending: dict[str, InputAccepted] = {}
        self._summaries: set[str] = set()
        self._kinds: dict[bytes, int] = {}
        self._takes: dict[int, Callable[[int, bytes], None]] = {
            _SNAPSHOT: self._take_recent,
            _STATUS: self._take_status,
            _USAGE: self._take_usage,
            _ROLLBACK: self._take_rollback,
            _CONTEXT: self._take_context,
            _COMPACTED: self._take_compacted,
            _META: self._take_meta,
            _ACCEPTED: self._take_accepted,
        }

    def take(self, lines: Iterator[tuple[int, bytes]]) -> None:
        """Look at lines, in order; from the address `own` on they are those of the file that the thread goes on in."""
        # The loop that all of a large file runs through: hence its locals, and what could be methods and is not.
        kinds, takes = self._kinds, self._takes
        items, recent, events = self._items.append, self._recent.append, self._events
        for address, line in lines:
            kind = kinds.get(line[HEAD]) if line.startswith(_DATED) else None
            if kind is None:
                kind = self._kind_of(line)
            if kind == _ITEM:
                items(address)
                recent(address)
                if self._pending:
                    self._settle(line)
            elif kind == _EVENT:
                events.append(line)
                if len(events) >= EVENTS:
                    self._forget_events()
            elif kind == _BROKEN:
                self._skip(address, line)
            elif kind != _IGNORED:
                takes[kind](address, line)
        self.is_blank = self.is_blank and not self._is_known

    def _kind_of(self, line: bytes) -> int:
        """What is done with a line; of most lines in the quick form it is asked once for all that begin alike."""
        match = QUICK_HEAD.match(line)
        if match is None:
            self.is_plain = False
            return self._kind_of_head(line)
        kind = self._kinds.get(match[1])
        found = self._kind_of_head(line) if kind is None else kind
        if found != _BROKEN and len(self._kinds) < KINDS:
            self._kinds[match[1]] = found
            if match.end() < HEAD.stop:
                self._kinds[line[HEAD]] = found
        return found

    def _kind_of_head(self, line: bytes) -> int:
        head = head_of(line)
        if head is None:
            return _BROKEN
        self._is_known = True
        kind, tag = head
        if kind == b"response_item":
            return _SNAPSHOT if tag == b"ghost_snapshot" else _ITEM
        if kind == b"event_msg":
            return _OF_EVENTS.get(tag or b"", _EVENT)
        return _OF_LINES.get(kind, _IGNORED)

    def take_before(self, source: FileLines, start: int) -> None:
        """What counts of the lines in front of a compaction: the meta, and the inputs that were accepted."""
        self._is_known, self.is_blank = True, False
        for address, line in source.lines(self._own):
            head = head_of(line)
            if address >= start or self.meta is not None:
                break
            if head is not None and head.type == b"session_meta":
                self._take_meta(address, line)
        lines: list[bytes] = []
        for data, _ in source.blocks_before(start):
            found = data.rfind(b'"submission_id"')
            while found >= 0:
                begin, end = data.rfind(b"\n", 0, found) + 1, data.find(b"\n", found)
                lines.append(data[begin : end if end >= 0 else len(data)])
                found = data.rfind(b'"submission_id"', 0, begin)
        for line in reversed(lines):
            head = None if crc_holds(line) is False else head_of(line)
            if head is not None and head.type == b"codex_actors":
                self._take_accepted(0, line)
            elif head is not None and head.type == b"response_item":
                self._settle(line)

    def is_binary(self) -> bool:
        """Whether there is no line, and what there is instead is no text."""
        if self._is_known:
            return False
        return not all(_is_text(line) for _, (_, line) in zip(range(64), self.source.lines(), strict=False))

    # --- lines -----------------------------------------------------------------------------------------------------

    def _skip(self, address: int, line: bytes) -> None:
        if line.strip():
            self.is_blank = False
            if address >= self._own:
                self.skipped.append(address)

    def _settle(self, line: bytes) -> None:
        if b'"submission_id"' in line:
            value = value_of(line) or {}
            self._pending.pop(str(value.get("submission_id")), None)

    def _forget_events(self) -> None:
        """Only the newest are kept."""
        events, size = self._events, 0
        if len(events) <= EVENTS // 2 and sum(map(len, events)) <= EVENT_BYTES:
            return
        for index in range(len(events) - 1, -1, -1):
            size += len(events[index])
            if size > EVENT_BYTES or len(events) - index > EVENTS // 2:
                del events[: index + 1]
                return

    def _take_recent(self, address: int, line: bytes) -> None:
        self._recent.append(address)
        if self._pending:
            self._settle(line)

    def _take_status(self, address: int, line: bytes) -> None:
        self._events.append(line)
        self._recent.append(address)

    def _take_usage(self, address: int, line: bytes) -> None:
        self._take_status(address, line)
        if _has_usage(line):
            self._usage, self._is_counted = line, True

    def _take_context(self, _address: int, line: bytes) -> None:
        self._context = line

    def _take_rollback(self, _address: int, line: bytes) -> None:
        self._events.append(line)
        payload = (value_of(line) or {}).get("payload")
        turns = payload.get("num_turns") if isinstance(payload, dict) else None
        if type(turns) is int:
            self._is_counted = False
            if turns > 0:
                self._roll_back(turns)

    def _take_meta(self, address: int, line: bytes) -> None:
        self.is_plain = self.is_plain and b'"history_mode"' not in line
        if self.meta is None and address >= self._own:
            self.meta = payload_in(line, SessionMeta)

    def _take_accepted(self, _address: int, line: bytes) -> None:
        self.is_plain = False
        accepted = payload_in(line, InputAccepted)
        if accepted is not None:
            self._pending.setdefault(accepted.submission_id, accepted)

    def _take_compacted(self, address: int, line: bytes) -> None:
        value = value_of(line)
        payload = None if value is None else value.get("payload")
        message = payload.get("message") if isinstance(payload, dict) else None
        if not isinstance(message, str):
            return
        replacement = payload.get("replacement_history") if isinstance(payload, dict) else None
        if replacement is None:
            self._base = self._summarized(message or "(no summary available)")
            self._replacement = None
        elif payload_in(line, Compacted) is None:
            return
        else:
            self._base, self._replacement = [], address
        self._summaries.add(message)
        self._is_counted = False
        del self._items[:]
        self._events.clear()

    # --- what a line makes of those before it --------------------------------------------------------------------------

    def _roll_back(self, turns: int) -> None:
        """As `drop_last_n_user_turns`: the lines that fall are read backwards, and no other."""
        cut, left = None, turns
        for index in range(len(self._items) - 1, -1, -1):
            if self._is_user(self._items[index]):
                cut, left = index, left - 1
                if left == 0:
                    break
        if left and any(is_user_message(item) for item in self._base_items()):
            self._base = drop_last_n_user_turns(self._base_items(), left)
            self._replacement, cut = None, 0
        if cut is not None:
            del self._items[cut:]

    def _is_user(self, address: int) -> bool:
        line = self.source.line(address)
        if b'"user"' not in line:
            return False
        item = item_in(line)
        return item is not None and is_user_message(item)

    def _base_items(self) -> list[ResponseItem]:
        """What stands before the items that have lines of their own."""
        if self._replacement is not None:
            items = replacement_in(self.source.line(self._replacement))
            self._base = [item for item in items if not isinstance(item, GhostSnapshot)]
            self._replacement = None
        return self._base

    def _summarized(self, summary: str) -> list[ResponseItem]:
        """As `replay.summarized`, of the survivors; one after the other, so that they are never all in memory."""
        prefix, said = summary_prefix(self._survivors())
        return summarized(prefix, said, summary, self._summaries)

    def _survivors(self) -> Iterator[ResponseItem]:
        return chain(self._base_items(), filter(None, map(item_in, map(self.source.line, self._items))))

    def _skip_broken_items(self) -> None:
        """Their first bytes were those of items."""
        for address in self._items:
            line = self.source.line(address)
            if value_of(line) is None:
                self._skip(address, line)

    # --- the end ---------------------------------------------------------------------------------------------------

    def replayed(self, start: int, end: int, segments: Sequence[Segment] = ()) -> Replayed:
        """What it comes to, where all from `start` to `end` was taken."""
        status = self.status(start)
        is_paginated = self.meta is not None and self.meta.history_mode == "paginated"
        history = tuple(self._survivors())
        if len(history) < len(self._base) + len(self._items):
            self._skip_broken_items()
        texts = {item.text for item in history if isinstance(item, Message)} if self._summaries else set()
        usage = self._last_usage(end)
        self._forget_events()
        return Replayed(
            meta=self.meta,
            history=history,
            usage=usage,
            is_counted=usage is not None and self._is_counted,
            status=status,
            context=self._last_context(end),
            pending=tuple(self._pending.values()),
            summaries=frozenset(self._summaries & texts),
            events=None if self.is_blank else RecordedEvents(self._events),
            segments=tuple(segments),
            next_ordinal=self._last_ordinal(end) + 1 if is_paginated else None,
        )

    def status(self, start: int) -> AgentStatus:
        """How the newest turn ended."""
        return last_status(self._last_turn(start))

    def _last_ordinal(self, end: int) -> int:
        ordinals = (ordinal_of(line) for _, line in self.source.lines_before(end))
        return next((ordinal for ordinal in ordinals if ordinal is not None), -1)

    def _last_context(self, end: int) -> TurnContextItem | None:
        if self._context is None:
            return None
        context = payload_in(self._context, TurnContextItem)
        if context is None:  # as for the usage
            for _, line in self.source.lines_before(end):
                head = head_of(line)
                is_context = head is not None and head.type == b"turn_context"
                if is_context and (context := payload_in(line, TurnContextItem)) is not None:
                    break
        return context

    def _last_usage(self, end: int) -> TokenUsageInfo | None:
        if self._usage is None:
            return None
        usage = _usage_in(self._usage)
        if usage is None:  # the line is damaged: an older one counts
            self._is_counted = False
            for _, line in self.source.lines_before(end):
                head = head_of(line)
                if head is not None and head.payload_type == b"token_count" and (usage := _usage_in(line)) is not None:
                    break
        return usage

    def _last_turn(self, start: int) -> list[RolloutItem]:
        """The lines that the status follows from: those since the newest user message. What a part of the file does not
        say (this, the usage, the settings), the lines in front of it do."""
        lines: list[RolloutItem] = []
        is_whole = any(self._ends_turn(self.source.line(address), lines) for address in reversed(self._recent))
        for _, line in self.source.lines_before(start):
            if is_whole and self._context is not None and self._usage is not None:
                break
            head = head_of(line)
            if head is None:
                continue
            if head.type == b"turn_context" and self._context is None:
                self._context = line
            elif head.payload_type == b"token_count" and self._usage is None and _has_usage(line):
                self._usage = line
            is_of_turn = head.type == b"response_item" or head.payload_type in _STATUS_EVENTS
            if is_of_turn and not is_whole:
                is_whole = self._ends_turn(line, lines)
        return lines[::-1]

    def _ends_turn(self, raw: bytes, lines: list[RolloutItem]) -> bool:
        """Add a line; whether it is a user message."""
        head = head_of(raw)
        if head is not None and head.type == b"event_msg":
            event = line_in(EventMsgLine, raw)
            if event is not None:
                lines.append(event)
            return False
        item = item_in(raw)
        if item is not None:
            lines.append(ResponseItemLine.model_construct(payload=item))
        return item is not None and is_user_message(item)


def _usage_in(line: bytes) -> TokenUsageInfo | None:
    event = line_in(EventMsgLine, line)
    return None if event is None else getattr(event.payload, "info", None)


def _has_usage(line: bytes) -> bool:
    return b'"info":{' in line or b'"info": {' in line


def _is_text(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
