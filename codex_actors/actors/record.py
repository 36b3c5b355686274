"""What one thread has recorded, and what may be shown of it.

Seen means kept: an effect (an event, a reply) is shown only when the lines before it are as durable as the manager's
`durability` says. Until then it waits in the outbox, in order.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from codex_actors.actors.pages import Lifecycle, Pages
from codex_actors.actors.shared import Shared
from codex_actors.compaction import estimated_tokens
from codex_actors.errors import RolloutError, RolloutUnavailable
from codex_actors.protocol.events import Event, EventMsg, TokenUsage, TokenUsageInfo, TurnAborted
from codex_actors.protocol.history import (
    Compacted,
    Replayed,
    ResponseItemLine,
    Segment,
    SessionMeta,
)
from codex_actors.protocol.items import ResponseItem, Verbatim
from codex_actors.protocol.wire import made
from codex_actors.rollout.encode import encode_body, encode_line
from codex_actors.rollout.forking import UNTIMED, Recorded
from codex_actors.rollout.owed import Append
from codex_actors.runtime.reply import Reply


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply to be given, or to be failed if its lines cannot be written: at once unless it `is_patient`."""

    reply: Reply[Any]
    value: Any
    is_patient: bool = True

    def __call__(self) -> None:
        self.reply.answer(self.value)


WAITING_LINES = 1024
WAITING_BYTES = 4 << 20
"""So much may wait in memory before the turn is aborted."""

NO_SUMMARIES: frozenset[str] = frozenset()

Effect: TypeAlias = Event | Answer | Callable[[], Any]


class Publisher(Protocol):
    """Where events go."""

    def publish(self, event: Event) -> None:
        """Show an event."""
        ...


class Owner(Protocol):
    """Whose record it is; held weakly, since it holds the record."""

    def on_kept(self, number: int, error: RolloutError | None) -> None:
        """The writer has dealt with an append: to be passed on to `kept`."""
        ...

    def on_unwritten(self, error: RolloutError, is_first: bool) -> None:
        """It could not be written; `is_first` since the last that could. A `RolloutUnavailable` may pass."""
        ...

    def on_written(self) -> None:
        """It can be written again, and everything is."""
        ...

    def on_too_much(self, error: RolloutUnavailable) -> None:
        """More waits to be written than may (`is_too_much`)."""
        ...

    def on_patience_lost(self, error: RolloutError) -> None:
        """It could not be written for so long that replies fail."""
        ...


class ThreadRecord:
    """The lines of one thread in memory and on their way to its file, and the outbox behind them.

    Runs in: the loop's OS thread, all of it.
    """

    __slots__ = (
        "_kept",
        "_meta",
        "_number",
        "_outbox",
        "_owner",
        "_retrying",
        "_shared",
        "_waits",
        "_watchers",
        "counted",
        "failed",
        "history",
        "is_full",
        "lines",
        "meta",
        "pages",
        "path",
        "segments",
        "summaries",
        "usage",
    )

    def __init__(self, shared: Shared, watchers: Publisher, owner: Owner) -> None:
        self._shared = shared
        self._watchers = watchers
        self._owner = weakref.ref(owner)
        self._number = 0
        self._kept = 0
        self._retrying = False
        self._waits = False
        self._outbox: deque[tuple[int, Effect]] | None = None
        self._meta: SessionMeta | None = None
        self.lines: list[Any] = []
        self.meta: SessionMeta | None = None
        self.segments: tuple[Segment, ...] = ()
        self.pages: Pages | None = None
        self.history: list[ResponseItem] = []
        self.usage: TokenUsageInfo | None = None
        self.path: Path | None = None
        self.failed: RolloutError | None = None
        self.counted = 0
        self.is_full = False
        self.summaries: frozenset[str] = NO_SUMMARIES

    def load(self, state: Replayed, lines: Iterable[Any], history: list[ResponseItem]) -> None:
        """Begin with what was recorded before: it stands in the files of `state`, and then in `lines`."""
        self.lines = list(lines)
        self.segments, self.meta = state.segments, state.meta
        self.history = history
        self.usage = state.usage
        self.counted = len(history) if state.is_counted else 0
        self.summaries = state.summaries

    @property
    def is_written(self) -> bool:
        """Whether all lines are as durable as they have to be."""
        return self._kept >= self._number

    @property
    def is_begun(self) -> bool:
        """Whether anything was recorded: a new thread's file is made by its first turn."""
        return self._meta is None and (self.path is not None or bool(self.lines or self.segments))

    def add(self, *lines: Any, is_awaited: bool = False) -> None:
        """Record payloads (or whole `RolloutItem`s): they count at once, and are on their way to the file.

        The first call after `begin` makes the file, of its meta line and all that was loaded. What is shown behind lines
        that are awaited waits until they are written, under the durability `memory` too.
        """
        meta, self._meta = self._meta, None
        if self.path is None:
            self.lines += lines
            return
        if meta is not None:
            lines, self.lines = (_first(meta, self.lines, self._shared.clock.timestamp()), *self.lines, *lines), []
        lines = self._encoded(lines)
        self.lines += lines
        if lines:
            self._send(lines, create=meta is not None, is_awaited=is_awaited)

    def add_item(self, item: ResponseItem, *events: EventMsg, submission_id: str | None = None) -> None:
        """Record a history item, and events behind it."""
        self.history.append(item)
        line: Any = item
        if submission_id is not None or isinstance(item, Verbatim):  # an unknown item must not pass for an unknown line
            line = ResponseItemLine(payload=item, submission_id=submission_id)
        self.add(line, *events)

    def add_lifecycle(self, event: Lifecycle) -> None:
        """Record that a turn begins or ends: a paginated file says so, any other only that it was aborted."""
        if self.pages is not None or isinstance(event, TurnAborted):
            self.add(event)

    def begin(self, meta: SessionMeta) -> None:
        """The first line, for a file that is not there yet."""
        self._meta = self.meta = meta

    def _send(self, lines: tuple[Any, ...], *, create: bool, is_awaited: bool) -> None:
        assert self.path is not None
        self._number += 1
        append = Append(self.path, self._shared.clock.timestamp(), lines, create)
        if self._shared.config.durability == "memory" and not is_awaited:
            self._kept = self._number
        self._put(append)
        if isinstance(self.failed, RolloutUnavailable):
            self._count_waiting(self.failed, lines)

    def _count_waiting(self, failed: RolloutUnavailable, lines: tuple[Any, ...]) -> None:
        """What the writer has not looked at yet waits, too: a turn that is faster than it must not escape the bound."""
        size_bytes = sum(len(line) for line in lines if isinstance(line, bytes))
        self.failed = _with(failed, failed.waiting + len(lines), failed.waiting_bytes + size_bytes)
        if is_too_much(self.failed) and not is_too_much(failed):
            # Not at once: whoever records this is in the middle of something.
            self._shared.pump.post(self._tell_waiting)

    def _tell_waiting(self) -> None:
        owner = self._owner()
        if owner is not None and isinstance(self.failed, RolloutUnavailable):
            owner.on_too_much(self.failed)

    def _put(self, append: Append) -> None:
        owner = self._owner()
        if owner is not None:  # which is held until it has heard of it
            self._shared.writer.put((append, self._number, owner.on_kept))

    def show(self, effect: Effect) -> None:
        """Publish an event, or call a function, as soon as everything recorded so far is kept."""
        if self._kept >= self._number and not self._outbox:
            if isinstance(effect, Event):
                self._watchers.publish(effect)
            else:
                effect()
        else:
            if self._outbox is None:
                self._outbox = deque()
            self._outbox.append((self._number, effect))
            if not self.is_degraded:
                if self.failed is not None:
                    self.retry()
            elif isinstance(effect, Answer):
                self._wait()

    @property
    def is_degraded(self) -> bool:
        """Whether lines wait for a disk that does not take them."""
        return isinstance(self.failed, RolloutUnavailable)

    def retry(self) -> None:
        """Nothing is on its way that would settle the outbox: have the writer try again what it owes the file."""
        if not self._retrying and self.path is not None:
            self._retrying = True
            retry = Append(self.path, self._shared.clock.timestamp(), (), create=False)
            self._put(retry)

    def when_writable(self, then: Callable[[], Any], refuse: Callable[[RolloutUnavailable], Any]) -> None:
        """Have the writer of a degraded thread try again, and call `then`; `refuse` if that was in vain."""
        owner = self._owner()
        assert owner is not None
        assert self.path is not None
        is_told = False

        def tried(number: int, error: RolloutError | None) -> None:
            nonlocal is_told
            owner.on_kept(number, error)
            if is_told:  # a later attempt: what was refused must not happen then
                return
            is_told = True
            if isinstance(error, RolloutUnavailable):
                refuse(error.refusal())
            else:
                then()

        retry = Append(self.path, self._shared.clock.timestamp(), (), create=False)
        self._shared.writer.put((retry, self._number, tried))

    def kept(self, number: int, error: RolloutError | None) -> None:
        """The writer has dealt with an append."""
        self._retrying = False
        if error is not None:
            self._unkept(error)
            return
        was_degraded, self.failed = self.is_degraded, None
        self._rest()
        self._kept = max(self._kept, number)
        outbox = self._outbox
        while outbox and outbox[0][0] <= self._kept:
            effect = outbox.popleft()[1]
            if isinstance(effect, Event):
                self._watchers.publish(effect)
            else:
                effect()
        if not outbox:
            self._outbox = None
        owner = self._owner() if was_degraded else None
        if owner is not None:
            owner.on_written()

    def _unkept(self, error: RolloutError) -> None:
        may_pass, was_degraded = isinstance(error, RolloutUnavailable), self.is_degraded
        is_first = not was_degraded if may_pass else self.failed is None
        if isinstance(error, RolloutUnavailable) and isinstance(self.failed, RolloutUnavailable):
            waiting_bytes = max(error.waiting_bytes, self.failed.waiting_bytes)
            error = _with(error, max(error.waiting, self.failed.waiting), waiting_bytes)
        if may_pass or not was_degraded:
            self.failed = error
        if may_pass:
            self._wait()
            self.refuse(error, and_patient=False)
        owner = self._owner()
        if owner is not None:
            owner.on_unwritten(error, is_first)
            if isinstance(error, RolloutUnavailable) and is_too_much(error):
                owner.on_too_much(error)

    def _wait(self) -> None:
        """Replies wait for the disk, but not for ever."""
        if not self._waits:
            self._waits = True
            self._shared.pump.deadlines(self._shared.config.degraded_timeout_s).set(self._lose_patience)

    def _rest(self) -> None:
        if self._waits:
            self._waits = False
            self._shared.pump.deadlines(self._shared.config.degraded_timeout_s).discard(self._lose_patience)

    def _lose_patience(self) -> None:
        self._waits = False
        owner = self._owner()
        if self.failed is not None and owner is not None:
            owner.on_patience_lost(self.failed)

    def refuse(self, error: RolloutError, *, and_patient: bool = True) -> None:
        """Fail the replies that wait for lines which could not be written; their events go on waiting."""
        answers = [
            effect
            for _, effect in self._outbox or ()
            if isinstance(effect, Answer) and (and_patient or not effect.is_patient)
        ]
        if not answers:
            return
        # First: who is told may end the thread, and so put more into the outbox.
        failed = set(map(id, answers))
        self._outbox = deque(entry for entry in self._outbox or () if id(entry[1]) not in failed) or None
        for answer in answers:
            answer.reply.fail(error)

    def close(self) -> None:
        """Nothing more is recorded: behind what is on its way, another may become the file's writer."""
        if self.path is not None and self._meta is None and not self._shared.is_closing:
            self._shared.leave(self.path)

    def give_up(self) -> list[Effect]:
        """The effects that cannot be shown any more; the outbox is empty then."""
        waiting = [effect for _, effect in self._outbox or ()]
        self._outbox, self._kept = None, self._number
        self._rest()
        if self.path is not None:
            self._shared.unwritten.let_go(self.path)
        return waiting

    def count(self, usage: TokenUsage | None, window: int | None = None) -> TokenUsageInfo | None:
        """Add the usage of a request, which the whole history was part of, to the thread's."""
        if usage is not None:
            total = usage if self.usage is None else self.usage.total_token_usage + usage
            self.usage = made(
                TokenUsageInfo, total_token_usage=total, last_token_usage=usage, model_context_window=window
            )
            self.counted = len(self.history)
        return self.usage

    def estimate(self, last: TokenUsage, window: int | None) -> TokenUsageInfo:
        """The usage where the newest is not from a server."""
        total = TokenUsage() if self.usage is None else self.usage.total_token_usage
        self.usage = TokenUsageInfo(total_token_usage=total, last_token_usage=last, model_context_window=window)
        return self.usage

    def context_tokens(self) -> int:
        """About how long the next request is: what the server has counted, and an estimate of what came behind it."""
        if self.usage is None or not 0 < self.counted <= len(self.history):
            return estimated_tokens(self.history)
        return self.usage.last_token_usage.total_tokens + estimated_tokens(self.history[self.counted :])

    def roll_back(self, history: list[ResponseItem]) -> None:
        """The history is cut: its length was not counted, nor refused, by any server."""
        self.history, self.counted, self.is_full = history, 0, False

    def replace(self, history: list[ResponseItem], compacted: Compacted, *events: EventMsg) -> None:
        """The history is replaced by a summary."""
        self.roll_back(history)
        self.summaries |= {compacted.message}
        self.add(compacted, *events)

    def recorded(self) -> Recorded:
        """All lines: those that were read are still in their files, which nobody changes before that point."""
        return Recorded(self.segments, tuple(self.lines))

    def _encoded(self, lines: tuple[Any, ...]) -> tuple[Any, ...]:
        """The lines as they go to the file: half the size, and nothing for the garbage collector to look at. Where one is
        no JSON they stay as they are, for the writer to refuse."""
        try:
            if self.pages is not None:
                return self.pages.bodies(lines)
            return tuple([line if type(line) is bytes else encode_body(line) for line in lines])
        except (ValueError, TypeError, RecursionError):
            return lines


def is_too_much(error: RolloutUnavailable) -> bool:
    """Whether so much waits that no turn may add to it."""
    return error.waiting >= WAITING_LINES or error.waiting_bytes >= WAITING_BYTES


def _with(error: RolloutUnavailable, waiting: int, waiting_bytes: int) -> RolloutUnavailable:
    return RolloutUnavailable(error.path, error.errno, waiting, waiting_bytes, error.detail, error.is_taken_in)


def _first(meta: SessionMeta, lines: list[Any], timestamp: str) -> Any:
    """The meta of a fork as its first line: no later than what it has copied, as the times in a file never go back."""
    copied = next((line for line in lines if type(line) is bytes and line.startswith(b"{")), b"")
    first = copied[len(UNTIMED) : len(UNTIMED) + len(timestamp)].decode(errors="replace")
    return encode_line(first, meta) if copied.startswith(UNTIMED) and first < timestamp else meta
